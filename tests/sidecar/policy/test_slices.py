import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.features import LANGUAGE
from sidecar.policy.load import load_policy
from sidecar.policy.match import Effect, HttpPattern, McpKind, McpPattern
from sidecar.policy.model import Policy, Risk
from sidecar.policy.operation import Operation
from sidecar.policy.patterns import NamePattern, PathPattern
from sidecar.policy.slices import (
    BY_METHOD,
    Pattern,
    contains,
    may_meet,
    requests_of,
    slices_by_segment,
    slices_of,
)
from tests.sidecar.policy.requests import (
    METHODS,
    PATHS,
    RESOURCES,
    TOOLS,
    http_requests,
    mcp_requests,
    policies,
)
from tests.sidecar.policy.test_effective import SHOP
from tests.sidecar.policy.world import POLICY, policy_of


def http(path: str, *methods: str) -> HttpPattern:
    return HttpPattern(frozenset(methods or ("GET",)), PathPattern.parse(path))


def tools(*names: str) -> McpPattern:
    return McpPattern(McpKind.TOOLS, tuple(map(NamePattern.name, names)))


def resources(*names: str) -> McpPattern:
    return McpPattern(McpKind.RESOURCES, tuple(map(NamePattern.uri, names)))


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        (http("/a"), http("/a"), True),
        (http("/a"), http("/b"), False),
        (http("/a", "GET"), http("/a", "POST"), False),
        (http("/a", "GET"), http("/a", "*"), True),
        (http("/a/**"), http("/a"), True),
        (http("/a/**"), http("/a/b/c"), True),
        (http("/a/**"), http("/b/**"), False),
        (http("/a/*"), http("/a"), False),
        (http("/a/*"), http("/*/b"), True),
        (tools("get_*"), tools("get_page"), True),
        (tools("get_*"), tools("delete_*"), False),
        (tools("get_*"), tools("*"), True),
        (tools("get_page"), tools("get_book"), False),
        (tools("*_page"), tools("get_*"), True),
        (tools("get_*"), resources("docs://**"), False),
        (tools("get_*"), http("/a"), False),
    ],
)
def test_two_patterns_meet_unless_they_certainly_do_not(one: Pattern, other: Pattern, meet: bool) -> None:
    """Either way round."""
    assert may_meet(one, other) is may_meet(other, one) is meet


patterns = st.one_of(
    st.builds(http, st.sampled_from(PATHS), st.sampled_from(METHODS)),
    st.builds(tools, st.sampled_from(TOOLS)),
    st.builds(resources, st.sampled_from(RESOURCES)),
)


@given(patterns, patterns, http_requests | mcp_requests)
def test_a_request_that_both_match_is_where_they_meet(
    one: Pattern, other: Pattern, operation: Operation
) -> None:
    """And whatever one contains, it matches: the answers that count are never wrong."""
    both = one.matches(operation, Effect.DENY), other.matches(operation, Effect.DENY)
    if all(both):
        assert may_meet(one, other)
    if contains(one, other) and both[1]:
        assert both[0]


@given(policies(), st.data())
def test_every_request_is_of_the_slice_that_decisions_take(policy: Policy, data: st.DataObject) -> None:
    """The first whose pattern matches; none before it does."""
    service = policy.services[data.draw(st.sampled_from(("http", "mcp")))]
    operation = data.draw(http_requests if service.name == "http" else mcp_requests)
    special = service.special(operation)
    for part in slices_of(service):
        is_within = part.pattern is None or part.pattern.matches(operation, Effect.DENY)
        if part.special is special:
            assert is_within
            break
        assert not is_within


def test_every_slice_is_found_by_its_segment() -> None:
    """Segments without any are there too."""
    policy = load_policy(SHOP.partition("[[grants]]")[0].encode(), "policy.toml", enforced=LANGUAGE)
    found = {
        name: [requests_of(part.pattern) if part.pattern else part.service.name for part in parts]
        for name, parts in slices_by_segment(policy).items()
    }
    assert found == {
        "retrieval": ["crm"],
        "action": ["shop"],
        "high-risk": ["* /admin/**", "tools delete_*"],
    }


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (http("/x", "GET", "HEAD"), "read"),
        (http("/x", "POST"), "mutate"),
        (http("/x", "GET", "POST"), BY_METHOD),
        (http("/x", "*"), BY_METHOD),
        (None, BY_METHOD),
    ],
)
def test_the_class_of_http_requests_follows_their_methods(pattern: HttpPattern | None, expected: str) -> None:
    """Whatever the segment's is."""
    policy = load_policy(SHOP.partition("[[grants]]")[0].encode(), "policy.toml", enforced=LANGUAGE)
    *_, rest = slices_of(policy.services["shop"])
    assert rest.class_of(pattern) == expected


def test_the_class_of_a_tool_is_its_segments_and_reading_is_reading() -> None:
    """Unless the operation says otherwise."""
    text = SHOP.partition("[[grants]]")[0].replace(
        'tools = ["delete_*"]', 'tools = ["delete_*"]\nclass = "read"\nblast-radius = ["all"]'
    )
    policy = load_policy(text.encode(), "policy.toml", enforced=LANGUAGE)
    special, rest = slices_of(policy.services["crm"])
    assert (special.class_of(None), rest.class_of(None), rest.class_of(tools("x"))) == (
        "read",
        "read",
        "read",
    )
    shop_text = text.replace('segment = "retrieval"', 'segment = "action"')
    *_, rest = slices_of(load_policy(shop_text.encode(), "p", enforced=LANGUAGE).services["crm"])
    assert (rest.class_of(tools("x")), rest.class_of(resources("docs://a"))) == ("mutate", "read")
    assert (special.blast_radius, rest.blast_radius) == (frozenset({"all"}), frozenset())


def test_risk_is_the_operators_word_or_the_segments() -> None:
    """Nobody has to label everything before the picture means something."""
    policy = policy_of(POLICY.replace('8001"', '8001"\nrisk = "high"'))
    risks = {name: part.risk for name, service in policy.services.items() for part in slices_of(service)}
    assert risks == {"wiki": Risk.HIGH, "tickets": Risk.MEDIUM, "vault": Risk.HIGH}
