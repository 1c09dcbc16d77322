from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import RemoteError
from pki.spiffe import IdKind, SpiffeId, is_name, is_trust_domain
from tests.authority import SESSION

NODE = SpiffeId.for_node("example.org", "agents-1")
AGENT = SpiffeId.for_agent("example.org", "researcher", "agents-1", SESSION)
OPERATOR = SpiffeId.for_operator("example.org", "alice")
CA = SpiffeId.for_ca("example.org", "ca-1")


@pytest.mark.parametrize(
    ("spiffe_id", "text", "parts"),
    [
        (NODE, "spiffe://example.org/node/agents-1", (IdKind.NODE, "agents-1", "agents-1", "")),
        (
            AGENT,
            f"spiffe://example.org/agent/researcher/agents-1/{SESSION}",
            (IdKind.AGENT, "researcher", "agents-1", SESSION),
        ),
        (OPERATOR, "spiffe://example.org/operator/alice", (IdKind.OPERATOR, "alice", "", "")),
        (CA, "spiffe://example.org/ca/ca-1", (IdKind.CA, "ca-1", "", "")),
    ],
)
def test_each_shape_reads_as_it_is_written(
    spiffe_id: SpiffeId, text: str, parts: tuple[IdKind, str, str, str]
) -> None:
    """The four shapes parse to the value that prints them, and name their parts."""
    assert str(spiffe_id) == text
    assert SpiffeId.parse(text) == spiffe_id
    assert hash(SpiffeId.parse(text)) == hash(spiffe_id)
    assert (spiffe_id.kind, spiffe_id.name, spiffe_id.node, spiffe_id.session) == parts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://example.org/node",
        "spiffe://example.org/node/",
        "spiffe://example.org/node/a/",
        "spiffe://example.org//node/a",
        "spiffe://example.org/node/a/b",
        "spiffe://example.org/nodes/a",
        "spiffe://example.org/node/A",
        "spiffe://example.org/node/..",
        "spiffe://example.org/node/a\0b",
        "spiffe://example.org/node/a%2fb",
        "spiffe://example.org/node/a?x=1",
        "spiffe://example.org/node/a#x",
        "spiffe://example.org/node/a\n",
        "spiffe://example.org/node/-a",
        "spiffe://example.org/node/" + "a" * 64,
        "spiffe://example.org/operator/ä",
        f"spiffe://example.org/agent/researcher/{SESSION}",
        f"spiffe://example.org/agent/researcher/agents-1/{SESSION}/x",
        f"spiffe://example.org/agent/researcher/AGENTS/{SESSION}",
        f"spiffe://example.org/agent/researcher/agents-1/{SESSION[:-1]}",
        f"spiffe://example.org/agent/researcher/agents-1/{SESSION.upper()}",
        "spiffe://Example.org/node/a",
        "spiffe://user@example.org/node/a",
        "spiffe://example.org:443/node/a",
        "spiffe:///node/a",
        "SPIFFE://example.org/node/a",
        "https://example.org/node/a",
        "spiffe:/example.org/node/a",
        " spiffe://example.org/node/a",
        "spiffe://" + "a" * 256 + "/node/a",
        "spiffe://example.org/node/" + "a" * 512,
    ],
)
def test_what_is_not_one_of_the_shapes_is_no_id(text: str) -> None:
    """A near miss is refused, not repaired: two readers could repair it differently."""
    with pytest.raises(RemoteError, match=r"^SPIFFE ID: "):
        SpiffeId.parse(text)


@pytest.mark.parametrize(
    ("trust_domain", "path"),
    [("example.org", ()), ("", ("node", "a")), ("example.org", ("node", "a/b"))],
)
def test_a_bad_id_cannot_be_built_either(trust_domain: str, path: tuple[str, ...]) -> None:
    """The value itself refuses, so every SpiffeId there is, is good."""
    with pytest.raises(RemoteError):
        SpiffeId(trust_domain, path)


@given(st.text() | st.text("spiffe:/node.a-1agt").map(lambda rest: "spiffe://" + rest))
def test_any_text_gives_an_id_or_a_remote_error(text: str) -> None:
    """And an id that parses prints as exactly the text it came from."""
    with suppress(RemoteError):
        assert str(SpiffeId.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("a", True),
        ("0", True),
        ("a-b-1", True),
        ("a" * 63, True),
        ("a" * 64, False),
        ("", False),
        ("-a", False),
        ("a-", False),
        ("a_b", False),
        ("A", False),
        ("a\n", False),
    ],
)
def test_a_name_is_a_lower_case_label(text: str, good: bool) -> None:
    """1 to 63 of a-z, 0-9 and inner hyphens (RFC 1123)."""
    assert is_name(text) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("example.org", True),
        ("prod_1.example.org", True),
        ("a" * 255, True),
        ("a" * 256, False),
        ("", False),
        (".org", False),
        ("example.org.", False),
        ("Example.org", False),
        ("example.org/x", False),
    ],
)
def test_a_trust_domain_is_a_lower_case_host_like_name(text: str, good: bool) -> None:
    """At most 255 bytes of a-z, 0-9, dot, hyphen and underscore (SPIFFE-ID section 2.1)."""
    assert is_trust_domain(text) is good
