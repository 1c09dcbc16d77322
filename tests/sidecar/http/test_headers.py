from dataclasses import replace

import pytest

from sidecar.http import headers
from sidecar.http.headers import Changes, Identity, Marks
from sidecar.http.seams import Fields, Head
from sidecar.policy.operation import HttpCall

IDENTITY = Identity("researcher", "s" * 26, "t" * 26, "alice")
TRACE = "1" * 32
MARKS = Marks(IDENTITY, "r" * 26, f"00-{TRACE}-{'2' * 16}-01")

SET = {
    b"Host": b"127.0.0.1:1",
    b"Lockgate-Agent": b"researcher",
    b"Lockgate-Session": b"s" * 26,
    b"Lockgate-On-Behalf-Of": b"alice",
    b"Lockgate-Stream": b"t" * 26,
    b"Lockgate-Request": b"r" * 26,
    b"Via": b"1.1 lockgate",
    b"traceparent": f"00-{TRACE}-{'2' * 16}-01".encode(),
}


def head(*fields: tuple[bytes, bytes], upgrades: bool = False) -> Head:
    whole: Fields = ((b"host", b"127.0.0.1:1"), *fields)
    return Head(HttpCall("GET", "/"), b"GET", b"/", b"127.0.0.1:1", whole, upgrades)


def forwarded(*fields: tuple[bytes, bytes], marks: Marks = MARKS, changes: Changes | None = None) -> Fields:
    return headers.request_fields(head(*fields), marks, changes or Changes())


def test_verified_marks_are_set() -> None:
    """Who asks, for whom, over which stream, in which request and trace."""
    assert dict(forwarded()) == SET


@pytest.mark.parametrize(
    ("user", "spelled"),
    [("a@b", b"a@b"), ("Zoë", b"Zo%C3%AB"), ("50%", b"50%25"), ("a b", b"a b")],
)
def test_a_user_s_name_has_one_spelling_in_ascii(user: str, spelled: bytes) -> None:
    """Two users never look the same to a tool, whatever letters they are written with."""
    marks = replace(MARKS, identity=replace(IDENTITY, on_behalf_of=user))
    assert dict(forwarded(marks=marks))[b"Lockgate-On-Behalf-Of"] == spelled


STRIPPED = [
    b"lockgate-agent",
    b"lockgate_agent",
    b"lockgate.agent",
    b"lockgate-anything",
    b"x-lockgate-agent",
    b"x_lockgate_agent",
    b"forwarded",
    b"x-forwarded-for",
    b"x_forwarded_for",
    b"x-forwarded-user",
    b"x-forwarded-client-cert",
    b"x-real-ip",
    b"x-remote-user",
    b"remote_user",
    b"x-ssl-client-verify",
    b"client-cert",
    b"traceparent",
    b"connection",
    b"keep-alive",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"upgrade",
    b"transfer_encoding",
]


@pytest.mark.parametrize("name", STRIPPED)
def test_what_says_who_asks_is_not_the_callers_to_say(name: bytes) -> None:
    """In no spelling that a tool could take for it, nor what belongs to the agent's connection."""
    assert dict(forwarded((name, b"forged"))) == SET


def test_everything_else_is_forwarded_in_its_order() -> None:
    """Repeated fields too."""
    mine = ((b"accept", b"a"), (b"cookie", b"c"), (b"accept", b"b"), (b"x-my_own", b"d"), (b"via", b"1.1 me"))
    found = forwarded(*mine)
    assert found[1:6] == mine


def test_fields_that_connection_names_are_dropped() -> None:
    """They are for us. Of a tool's response none that says how it is read can be taken away."""
    assert (b"x-mine", b"1") not in forwarded((b"connection", b"close, X-Mine"), (b"x-mine", b"1"))
    fields = ((b"connection", b"Content-Type, X-Mine"), (b"content-type", b"text/plain"), (b"x-mine", b"1"))
    kept = headers.response_fields(fields, "r" * 26)
    assert [name for name, _ in kept] == [b"content-type", b"Lockgate-Request"]


def test_the_tools_credential_replaces_the_agents() -> None:
    """Of the same name there is one."""
    marks = Marks(IDENTITY, "r" * 26, credential=(b"X-Api-Key", b"the tool's"))
    found = forwarded((b"x-api-key", b"mine"), (b"x_api_key", b"mine"), marks=marks)
    assert b"mine" not in dict(found).values()
    assert (b"X-Api-Key", b"the tool's") in found


def test_framing_is_ours() -> None:
    """Chunks stay chunks; a body that a dialect gives has its own length, and nobody waits for a 100."""
    chunked = forwarded((b"transfer-encoding", b"chunked"))
    assert (b"Transfer-Encoding", b"chunked") in chunked
    mine = ((b"content-length", b"9"), (b"expect", b"100-continue"))
    assert {name for name, _ in forwarded(*mine)} >= {b"content-length", b"expect"}
    given = forwarded(*mine, changes=Changes(length=5))
    assert [value for name, value in given if name.lower() == b"content-length"] == [b"5"]
    assert b"expect" not in dict(given)


def test_a_response_that_will_be_read_is_asked_for_plainly() -> None:
    """No coding that we would have to undo."""
    found = forwarded((b"accept-encoding", b"gzip"), changes=Changes(b"wiki.internal", plain=True))
    assert [value for name, value in found if name.lower() == b"accept-encoding"] == [b"identity"]
    assert (b"Host", b"wiki.internal") in found


def test_an_upgrade_says_so_to_the_tool() -> None:
    """Connection and Upgrade are ours, made from what was decided on."""
    asked = head((b"connection", b"Upgrade"), (b"upgrade", b"websocket"), upgrades=True)
    found = dict(headers.request_fields(asked, MARKS, Changes()))
    assert found[b"Connection"] == b"Upgrade"
    assert found[b"Upgrade"] == b"websocket"


@pytest.mark.parametrize(
    ("traceparent", "kept"),
    [
        (f"00-{TRACE}-{'3' * 16}-01".encode(), True),
        (f"00-{'4' * 32}-{'3' * 16}-01".encode(), False),
        (b"00-", False),
        (b"", False),
    ],
)
def test_tracestate_stays_with_its_trace(traceparent: bytes, kept: bool) -> None:
    """What was said of another trace is not said of the session's."""
    found = forwarded((b"traceparent", traceparent), (b"tracestate", b"a=b"))
    assert ((b"tracestate", b"a=b") in found) == kept


def test_a_response_is_marked_and_cannot_speak_for_us() -> None:
    """A tool's Lockgate fields are dropped, as is what belongs to its connection."""
    fields = (
        (b"content-type", b"a/b"),
        (b"connection", b"close, x-hop"),
        (b"x-hop", b"1"),
        (b"transfer-encoding", b"chunked"),
        (b"lockgate-request", b"forged"),
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
    )
    assert headers.response_fields(fields, "r" * 26) == (
        (b"content-type", b"a/b"),
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
        (b"Lockgate-Request", b"r" * 26),
    )
