import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http.normal import (
    MAX_TARGET_BYTES,
    Reading,
    normal_head,
    normal_path,
    normal_target,
    query_pairs,
)
from sidecar.http.seams import Fields, MalformedError

HOSTS = frozenset({"127.0.0.1:15001", "localhost:15001", "wiki.internal"})
HOST = (b"host", b"127.0.0.1:15001")

NORMAL = [
    (b"/", "/", ""),
    (b"/a/b", "/a/b", ""),
    (b"/a/", "/a/", ""),
    (b"/a?", "/a", ""),
    (b"/%61%7e%2D", "/a~-", ""),
    (b"/a%20b", "/a%20b", ""),
    (b"/caf%c3%a9", "/caf%C3%A9", ""),
    (b"/@scope", "/@scope", ""),
    (b"/%40scope", "/@scope", ""),
    (b"/a%3ab%2Cc", "/a:b,c", ""),
    (b"/a;v=1", "/a;v=1", ""),
    (b"/a%3bv", "/a%3Bv", ""),
    (b"/a+b%2bc", "/a+b%2Bc", ""),
    (b'/{x}|^`[]"<>', "/%7Bx%7D%7C%5E%60%5B%5D%22%3C%3E", ""),
    (b"/100%25", "/100%25", ""),
    (b"/...", "/...", ""),
    (b"/.well-known/x", "/.well-known/x", ""),
    (b"/a?b=c&d", "/a", "b=c&d"),
    (b"/a?b=%63", "/a", "b=c"),
    (b"/a?b=1;c=2", "/a", "b=1%3Bc=2"),
    (b"/a?f[x]=1", "/a", "f%5Bx%5D=1"),
    (b"/a?u=/../x?y", "/a", "u=/../x?y"),
    (b"/a?b=%0a%2F\\", "/a", "b=%0A%2F%5C"),
    (b"/a?b=1+2%2b3%20", "/a", "b=1+2%2B3%20"),
]

REFUSED = [
    (b"", "not a path"),
    (b"*", "not a path"),
    (b"a/b", "not a path"),
    (b"http://wiki.internal/a", "not a path"),
    (b"wiki.internal:443", "not a path"),
    (b"/a#b", "fragment"),
    (b"/a?b#c", "fragment"),
    (b"//", "empty segment"),
    (b"//a", "empty segment"),
    (b"/a//b", "empty segment"),
    (b"/a/b//", "empty segment"),
    (b"/.", "dot segment"),
    (b"/..", "dot segment"),
    (b"/a/./b", "dot segment"),
    (b"/a/../b", "dot segment"),
    (b"/a/..", "dot segment"),
    (b"/%2e%2e/b", "dot segment"),
    (b"/a/%2E/b", "dot segment"),
    (b"/a/.%2e/b", "dot segment"),
    (b"/a/..;x=1/b", "dot segment"),
    (b"/a/%2e%2e;/b", "dot segment"),
    (b"/a/.;/b", "dot segment"),
    (b"/a%2fb", "encoded slash"),
    (b"/a%2Fb", "encoded slash"),
    (b"/a\\b", "backslash"),
    (b"/a%5cb", "backslash"),
    (b"/a%00", "control byte"),
    (b"/a%0d%0aHost:x", "control byte"),
    (b"/a%7f", "control byte"),
    (b"/a%252e%252e/b", "encoded twice"),
    (b"/a%25%32%66b", "encoded twice"),
    (b"/a%2561", "encoded twice"),
    (b"/a%", "hexadecimal"),
    (b"/a%4", "hexadecimal"),
    (b"/a%zz", "hexadecimal"),
    (b"/a%u0041", "hexadecimal"),
    (b"/%ff", "not UTF-8"),
    (b"/%c0%ae%c0%ae/", "not UTF-8"),
    (b"/%ed%a0%80", "not UTF-8"),
    (b"/a?b=%00", "NUL"),
    (b"/a?b=%", "hexadecimal"),
    (b"/" + b"a" * MAX_TARGET_BYTES, "longer than"),
]


@pytest.mark.parametrize(("target", "path", "query"), NORMAL, ids=[str(one[0]) for one in NORMAL])
def test_each_resource_has_one_spelling(target: bytes, path: str, query: str) -> None:
    """What is forwarded is the normal form, and that is normal already."""
    assert normal_target(target) == (path, query)
    again = f"{path}?{query}" if query else path
    assert normal_target(again.encode()) == (path, query)


@pytest.mark.parametrize(("target", "why"), REFUSED, ids=[str(one[0][:30]) for one in REFUSED])
def test_what_servers_read_differently_is_refused(target: bytes, why: str) -> None:
    """With the reason, which does not repeat the target."""
    with pytest.raises(MalformedError, match=why):
        normal_target(target)


def test_a_policy_can_ask_for_the_normal_form_of_a_path() -> None:
    """A pattern is compared with what is forwarded."""
    assert normal_path("/caf\u00e9") == "/caf%C3%A9"
    with pytest.raises(MalformedError):
        normal_path("/a/../b")


def test_a_query_is_read_as_a_form() -> None:
    """Names and values decoded, in order, as often as they occur; an empty part is none."""
    _, query = normal_target(b"/a?b=1&&b=2+3&%63=d%3De&f;g=h&=i")
    assert query_pairs(query) == (("b", "1"), ("b", "2 3"), ("c", "d=e"), ("f;g", "h"), ("", "i"))


@pytest.mark.parametrize(
    ("query", "why"), [("a=%ff", "not UTF-8"), ("&".join(["a=1"] * 513), "more than")], ids=["utf-8", "many"]
)
def test_a_query_that_is_no_form_is_refused(query: str, why: str) -> None:
    """A predicate could not be evaluated on it."""
    with pytest.raises(MalformedError, match=why):
        query_pairs(query)


@given(st.binary(max_size=60))
def test_any_target_has_a_normal_form_or_is_refused(target: bytes) -> None:
    """Any bytes: a value that is its own normal form and decodes to the same, or the one error type."""
    try:
        path, query = normal_target(b"/" + target)
        pairs = query_pairs(query)
    except MalformedError:
        return
    assert normal_target(f"{path}?{query}".encode()) == (path, query)
    assert path.isascii()
    assert query.isascii()
    assert query_pairs(query) == pairs


READING = Reading(HOSTS)


def head(*fields: tuple[bytes, bytes], method: bytes = b"GET", hosts: frozenset[str] = HOSTS) -> object:
    return normal_head(method, b"/a?b=1", fields, Reading(hosts))


def test_a_path_has_no_parameters_unless_its_service_says_so() -> None:
    """To some servers /admin;x/users is /admin/users, which a rule on /admin/** would not stop."""
    for target in (b"/admin;x/users", b"/a;"):
        with pytest.raises(MalformedError, match="a ; in the path"):
            normal_head(b"GET", target, (HOST,), READING)
        assert normal_head(b"GET", target, (HOST,), Reading(HOSTS, parameters=True)).target == target
    assert normal_head(b"GET", b"/a%3Bb", (HOST,), READING).target == b"/a%3Bb"


@pytest.mark.parametrize(
    "name",
    [
        b"mcp_session_id",
        b"mcp.method",
        b"content_type",
        b"content_length",
        b"transfer.encoding",
    ],
)
def test_what_is_decided_on_has_one_spelling(name: bytes) -> None:
    """To CGI and its kin all of them are one field; the tool would see one that was not checked."""
    with pytest.raises(MalformedError, match="another spelling of"):
        head(HOST, (name, b"x"))


@pytest.mark.parametrize("option", [b"Mcp-Method", b"close, authorization", b"Host", b"Content-Length"])
def test_connection_takes_nothing_away_that_is_decided_on(option: bytes) -> None:
    """It names fields that end here: the tool would be asked something else."""
    with pytest.raises(MalformedError, match="Connection names"):
        head(HOST, (b"connection", option))


def test_a_head_becomes_a_call() -> None:
    """Method, path and query of the call are those that are forwarded."""
    found = normal_head(b"POST", b"/%61?b=1", (HOST,), READING)
    assert (found.call.method, found.call.path, found.call.query) == ("POST", "/a", (("b", "1"),))
    assert (found.method, found.target, found.host) == (b"POST", b"/a?b=1", b"127.0.0.1:15001")


UPGRADE: Fields = (HOST, (b"connection", b"keep-alive, Upgrade"), (b"upgrade", b"WebSocket"))


def test_a_websocket_has_a_method_of_its_own() -> None:
    """A grant of GET must not open a connection for both ways."""
    found = normal_head(b"GET", b"/a", UPGRADE, READING)
    assert found.upgrades
    assert (found.call.method, found.method) == ("WEBSOCKET", b"GET")


@pytest.mark.parametrize("host", ["127.0.0.1:15001", "LOCALHOST:15001", "Wiki.Internal"])
def test_the_binding_and_the_service_are_known_by_their_hosts(host: str) -> None:
    """Whatever the case."""
    assert head((b"host", host.encode()), (b"origin", b"http://" + host.encode()))


HOSTILE_HEADS: list[tuple[bytes, Fields, str]] = [
    (b"GET", (), "exactly one Host"),
    (b"GET", (HOST, HOST), "exactly one Host"),
    (b"GET", ((b"host", b"evil.example"),), "Host is neither"),
    (b"GET", ((b"host", b"127.0.0.1:15002"),), "Host is neither"),
    (b"GET", ((b"host", b"127.0.0.1:15001, evil"),), "Host is neither"),
    (b"GET", ((b"host", b"user@127.0.0.1:15001"),), "Host is neither"),
    (b"GET", ((b"host", b"wiki.internal."),), "Host is neither"),
    (b"GET", ((b"host", b""),), "Host is neither"),
    (b"GET", ((b"host", b"\xe2\x84\xaa"),), "Host is neither"),
    (b"GET", (HOST, (b"origin", b"http://evil.example")), "foreign Origin"),
    (b"GET", (HOST, (b"origin", b"null")), "foreign Origin"),
    (b"GET", (HOST, (b"origin", b"file://wiki.internal")), "foreign Origin"),
    (b"GET", (HOST, (b"origin", b"http://wiki.internal.evil.example")), "foreign Origin"),
    (b"GET", (HOST, (b"x-http-method-override", b"DELETE")), "override"),
    (b"GET", (HOST, (b"x_http_method_override", b"DELETE")), "override"),
    (b"GET", (HOST, (b"x-original-url", b"/admin")), "override"),
    (b"GET", (HOST, (b"x-rewrite-url", b"/admin")), "override"),
    (b"CONNECT", (HOST,), "CONNECT"),
    (b"TRACE", (HOST,), "TRACE"),
    (b"WEBSOCKET", (HOST,), "WEBSOCKET"),
    (b"get", (HOST,), "capital letters"),
    (b"GE'T", (HOST,), "capital letters"),
    (b"A" * 21, (HOST,), "capital letters"),
    (b"GET", (HOST, (b"connection", b"upgrade"), (b"upgrade", b"h2c")), "anything but WebSocket"),
    (b"GET", (HOST, (b"upgrade", b"websocket")), "anything but WebSocket"),
    (b"GET", (HOST, (b"connection", b"upgrade")), "anything but WebSocket"),
    (b"POST", UPGRADE, "anything but WebSocket"),
    (b"GET", (*UPGRADE, (b"upgrade", b"websocket")), "anything but WebSocket"),
    (b"GET", (*UPGRADE, (b"content-length", b"1")), "upgrade with a body"),
]


@pytest.mark.parametrize(
    ("method", "fields", "why"), HOSTILE_HEADS, ids=[f"{n}-{one[2]}" for n, one in enumerate(HOSTILE_HEADS)]
)
def test_a_head_that_means_something_else_is_refused(method: bytes, fields: Fields, why: str) -> None:
    """Another host, another method, another protocol than what is decided on."""
    with pytest.raises(MalformedError, match=why):
        head(*fields, method=method)
