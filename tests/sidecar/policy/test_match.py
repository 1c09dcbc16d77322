import pytest

from pki.clock import Wall
from sidecar.policy.match import (
    HTTP,
    MCP,
    TCP,
    Effect,
    HttpPattern,
    McpKind,
    McpPattern,
    Rule,
    is_conversation,
    is_plain,
)
from sidecar.policy.operation import Operation
from sidecar.policy.patterns import NamePattern, PathPattern
from sidecar.policy.predicates import Demands, Predicate, Reach, Subject

GRANT, DENY = Effect.GRANT, Effect.DENY
SMALL = Predicate(Subject.QUERY, "limit", Demands(high=100), Reach.EVERY)
MINE = Predicate(Subject.QUERY, "owner", Demands(one_of=("me",)), Reach.EVERY)


def rule(
    *,
    effect: Effect = GRANT,
    expires: int | None = None,
    services: tuple[str, ...] = (),
    segments: tuple[str, ...] = (),
    agents: tuple[str, ...] = ("a",),
) -> Rule:
    end = None if expires is None else Wall(expires)
    return Rule(effect, "r", frozenset(agents), frozenset(services), frozenset(segments), end, 1)


def about(http: HttpPattern | None = None, mcp: McpPattern | None = None, effect: Effect = GRANT) -> Rule:
    """A rule about some requests."""
    ends = frozenset({"s"})
    return Rule(
        effect,
        "r",
        frozenset({"a"}),
        ends,
        frozenset(),
        None,
        1,
        http=(http,) if http else (),
        mcp=(mcp,) if mcp else (),
    )


def http(methods: str, path: str, *predicates: Predicate) -> HttpPattern:
    return HttpPattern(frozenset(methods.split()), PathPattern.parse(path), predicates)


def tools(*names: str) -> McpPattern:
    return McpPattern(McpKind.TOOLS, tuple(map(NamePattern.name, names)))


def resources(*uris: str) -> McpPattern:
    return McpPattern(McpKind.RESOURCES, tuple(map(NamePattern.uri, uris)))


def call(name: str) -> Operation:
    return Operation("tools/call", name)


def read(uri: str) -> Operation:
    return Operation("resources/read", uri)


@pytest.mark.parametrize(
    ("one", "matches"),
    [
        (rule(services=("s",)), True),
        (rule(segments=("g",)), True),
        (rule(services=("t",)), False),
        (rule(segments=("h",)), False),
        (rule(agents=("b",), services=("s",)), False),
        (rule(agents=(), services=("s",)), False),
        (rule(), False),
    ],
)
def test_a_rule_matches_its_agents_on_its_services_and_segments(one: Rule, matches: bool) -> None:
    """Empty lists match nothing."""
    assert one.matches("a", "s", "g") is matches


@pytest.mark.parametrize(
    ("one", "other", "does"),
    [(None, 5, True), (6, 5, True), (5, 5, False), (None, None, False), (5, None, False)],
)
def test_a_rule_outlasts_one_that_ends_before(one: int | None, other: int | None, does: bool) -> None:
    """None never ends."""
    assert rule(expires=one).outlasts(rule(expires=other)) is does


@pytest.mark.parametrize(
    ("pattern", "operation", "matches"),
    [
        (http("GET", "/a/**"), Operation("GET", "/a/b"), True),
        (http("GET", "/a/**"), Operation("POST", "/a/b"), False),
        (http("GET", "/a/**"), Operation("get", "/a/b"), False),
        (http("GET", "/a/**"), Operation("GET", "/b"), False),
        (http("* GET", "/a"), Operation("PATCH", "/a"), True),
        (http("GET", "/a", SMALL), Operation("GET", "/a"), False),
        (http("GET", "/a", SMALL), Operation("GET", "/a", frozenset({SMALL.name})), True),
        (http("GET", "/a", SMALL, MINE), Operation("GET", "/a", frozenset({SMALL.name})), False),
    ],
)
def test_an_http_pattern_is_method_path_and_conditions(
    pattern: HttpPattern, operation: Operation, matches: bool
) -> None:
    """All three must fit, in a grant as in a deny."""
    assert pattern.matches(operation, GRANT) is pattern.matches(operation, DENY) is matches


@pytest.mark.parametrize("method", ["CONNECT", "WEBSOCKET"])
def test_a_tunnel_is_granted_by_name_only(method: str) -> None:
    """After it no request can be told from another. A deny of every method is of these as well."""
    tunnel = Operation(method, "/")
    assert not http("*", "/").matches(tunnel, GRANT)
    assert http(f"* {method}", "/").matches(tunnel, GRANT)
    assert http("*", "/").matches(tunnel, DENY)


@pytest.mark.parametrize(
    ("pattern", "operation", "matches"),
    [
        (tools("get_*", "x"), call("get_page"), True),
        (tools("get_*", "x"), call("x"), True),
        (tools("get_*"), call("set_page"), False),
        (tools("get_*"), Operation("prompts/get", "get_page"), False),
        (McpPattern(McpKind.PROMPTS, (NamePattern("get_*"),)), Operation("prompts/get", "get_page"), True),
        (resources("docs://**"), read("docs://a/b"), True),
        (resources("docs://**"), Operation("resources/subscribe", "docs://a/b"), True),
        (resources("docs://**"), Operation("resources/delete", "docs://a/b"), False),
        (McpPattern(McpKind.TOOLS, (NamePattern("x"),), (SMALL,)), call("x"), False),
    ],
)
def test_an_mcp_pattern_is_kind_name_and_conditions(
    pattern: McpPattern, operation: Operation, matches: bool
) -> None:
    """A tool, a resource or a prompt, by the method that asks for it."""
    assert pattern.matches(operation, GRANT) is pattern.matches(operation, DENY) is matches


@pytest.mark.parametrize("name", ["docs://a/../b", "docs://%61", "DOCS://a", "docs://a\n"])
def test_a_name_with_two_readings_is_in_no_grant_and_in_every_deny(name: str) -> None:
    """The tool may read another name than the pattern was written for (path traversal, case, encodings)."""
    for pattern, operation in (
        (resources("docs://**"), read(name)),
        (resources("other://x"), read(name)),
        (tools("*"), call(name + " ")),
    ):
        assert not is_plain(operation)
        assert not pattern.matches(operation, GRANT)
        assert pattern.matches(operation, DENY)


@pytest.mark.parametrize(
    ("one", "operation", "effect", "meets"),
    [
        (about(), None, GRANT, True),
        (about(), Operation("GET", "/x"), DENY, True),
        (about(http("GET", "/a")), Operation("GET", "/a"), GRANT, True),
        (about(http("GET", "/a")), Operation("GET", "/b"), GRANT, False),
        (about(http("GET", "/a")), None, GRANT, True),
        (about(http("GET", "/a"), effect=DENY), None, DENY, False),
        (about(mcp=tools("x")), None, GRANT, False),
    ],
)
def test_a_grant_of_some_requests_opens_the_stream_and_a_deny_leaves_it(
    one: Rule, operation: Operation | None, effect: Effect, meets: bool
) -> None:
    """None is the stream of an http service: it carries what is allowed."""
    assert one.meets(HTTP, operation) is meets


def test_a_rule_says_nothing_of_other_protocols() -> None:
    """Patterns of http are for http, and so on; in a tcp stream nothing can be told."""
    both = about(http("GET", "/a"), tools("x"))
    assert both.patterns(HTTP) == both.http
    assert both.patterns(MCP) == both.mcp
    assert both.patterns(TCP) == ()
    assert not both.meets(TCP, None)


@pytest.mark.parametrize(
    ("method", "is_part"),
    [
        ("initialize", True),
        ("ping", True),
        ("tools/list", True),
        ("notifications/cancelled", True),
        ("tools/call", False),
        ("completion/complete", False),
        ("sampling/createMessage", False),
        ("", False),
    ],
)
def test_a_conversation_belongs_to_its_stream(method: str, is_part: bool) -> None:
    """Whoever may use one tool may initialize, ping and list; what is not known needs a whole grant."""
    operation = Operation(method, "y")
    assert is_conversation(MCP, operation) is is_part
    assert not is_conversation(HTTP, operation)
    assert about(mcp=tools("x")).meets(MCP, operation) is is_part
    assert not about(mcp=tools("x"), effect=DENY).meets(MCP, operation)


@pytest.mark.parametrize(
    ("wide", "narrow", "effect", "does"),
    [
        (http("GET POST", "/a/**"), http("GET", "/a/b"), GRANT, True),
        (http("GET", "/a"), http("GET POST", "/a"), GRANT, False),
        (http("*", "/a"), http("GET", "/a"), GRANT, True),
        (http("*", "/a"), http("*", "/a"), GRANT, True),
        (http("*", "/a"), http("CONNECT", "/a"), GRANT, False),
        (http("*", "/a"), http("CONNECT", "/a"), DENY, True),
        (http("GET", "/a"), http("*", "/a"), GRANT, False),
        (http("GET", "/a"), http("GET", "/a", SMALL), GRANT, True),
        (http("GET", "/a", SMALL), http("GET", "/a"), GRANT, False),
        (http("GET", "/a", SMALL), http("GET", "/a", SMALL, MINE), GRANT, True),
    ],
)
def test_a_pattern_contains_what_it_surely_matches(
    wide: HttpPattern, narrow: HttpPattern, effect: Effect, does: bool
) -> None:
    """More methods, a wider path, fewer conditions."""
    assert wide.contains(narrow, effect) is does


def test_an_mcp_pattern_contains_names_of_its_kind() -> None:
    """Each of them, by one of its own."""
    assert tools("get_*", "x").contains(tools("get_a", "x", "get_b*"))
    assert not tools("get_*").contains(tools("get_a", "x"))
    assert not tools("*").contains(resources("docs://a"))
    assert not McpPattern(McpKind.TOOLS, tools("*").names, (SMALL,)).contains(tools("x"))


def test_patterns_in_hints_are_short() -> None:
    """As people write them."""
    assert str(http("GET HEAD", "/api/**", SMALL)) == "GET|HEAD /api/** where limit max 100"
    assert str(tools("get_*", "x")) == "tools get_* x"


def test_a_rule_counts_the_entries_that_it_makes() -> None:
    """What the cap on the size of an index counts."""
    one = rule(agents=("a", "b"), services=("s", "t"), segments=("g",))
    assert one.entries == 6
    assert about(http("GET POST", "/a"), tools("x", "y", "z")).entries == 5


def test_a_pattern_says_all_of_its_conditions() -> None:
    """In hints, and where policies are compared."""
    assert (
        str(http("GET HEAD", "/a/**", SMALL, MINE))
        == 'GET|HEAD /a/** where limit max 100 and owner in ["me"]'
    )
    assert str(http("GET", "/a")) == "GET /a"
