"""Random policies about requests: one service of each protocol, with operations in segments of their own."""

from typing import Any

from hypothesis import strategies as st

from sidecar.policy.features import LANGUAGE
from sidecar.policy.load import load_policy
from sidecar.policy.model import Policy
from sidecar.policy.operation import Operation

HEAD = """\
[segments.watched]
class = "read"
stale-after = "5m"
mode = "observe"

[agents.a]
uid = 1
nodes = ["agents-1"]
"""

SERVICE = """
[services.{name}]
segment = "{segment}"
nodes = ["tools-1"]
target = "127.0.0.1:1"
protocol = "{name}"
"""

SEGMENTS = ("retrieval", "action", "high-risk", "watched")
PATHS = ("/**", "/api/**", "/api/*", "/api/x", "/admin/**", "/*/x")
METHODS = ("GET", "POST", "*")
TOOLS = ("get_*", "delete_*", "*", "get_page", "*_page")
RESOURCES = ("docs://**", "docs://a/*")

http_patterns = st.fixed_dictionaries(
    {"methods": st.lists(st.sampled_from(METHODS), min_size=1, max_size=2, unique=True), "path": st.sampled_from(PATHS)},
    optional={"query": st.just({"q": {"equals": "1"}})},
)  # fmt: skip
mcp_patterns = st.one_of(
    st.fixed_dictionaries(
        {"tools": st.lists(st.sampled_from(TOOLS), min_size=1, max_size=2, unique=True)},
        optional={"arguments": st.just({"$.n": {"max": 5}})},
    ),
    st.fixed_dictionaries({"resources": st.lists(st.sampled_from(RESOURCES), min_size=1, max_size=1)}),
)
http_operations = st.fixed_dictionaries(
    {"methods": st.lists(st.sampled_from(METHODS), min_size=1, max_size=2, unique=True), "path": st.sampled_from(PATHS)}
)  # fmt: skip
mcp_operations = st.fixed_dictionaries(
    {"tools": st.lists(st.sampled_from(TOOLS), min_size=1, max_size=2, unique=True)}
)
ends = {"expires": st.sampled_from((3, 8))}
some_segments = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=2, unique=True)
some_http = st.lists(http_patterns, min_size=1, max_size=2)
some_mcp = st.lists(mcp_patterns, min_size=1, max_size=2)


def _rules(services: tuple[str, ...], **patterns: Any) -> Any:
    """Rules that name services of one protocol only, or segments, where each request has what is said of its own."""
    named = st.lists(st.sampled_from(services), min_size=1, unique=True) if services else st.nothing()
    optional = {"segments": some_segments, **({"services": named} if services else {}), **ends}
    return st.fixed_dictionaries({"agents": st.just(["a"]), **patterns}, optional=optional)


rules = st.one_of(
    _rules(("http", "mcp")),
    _rules(("http",), http=some_http),
    _rules(("mcp",), mcp=some_mcp),
    _rules((), http=some_http, mcp=some_mcp),
)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {_inline(one)}' for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _rule(kind: str, number: int, rule: dict[str, Any]) -> str:
    lines = [f'[[{kind}]]\nid = "{kind}-{number}"']
    for key, value in rule.items():
        lines.append(f"{key} = " + (f"1970-01-01T00:00:0{value}Z" if key == "expires" else _inline(value)))
    return "\n".join(lines)


SPECIAL: tuple[tuple[str, Any], ...] = (("http", http_operations), ("mcp", mcp_operations))


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """A policy of the whole language, as far as it is about requests; rules end at 3 s or 8 s."""
    parts = [HEAD]
    for name, operations in SPECIAL:
        parts.append(SERVICE.format(name=name, segment=draw(st.sampled_from(SEGMENTS))))
        for operation in draw(st.lists(operations, max_size=2)):
            lines = "\n".join(f"{key} = {_inline(value)}" for key, value in operation.items())
            segment = draw(st.sampled_from(SEGMENTS))
            parts.append(f'[[services.{name}.operations]]\nsegment = "{segment}"\n{lines}\n')
    for kind in ("grants", "denies"):
        parts += [_rule(kind, n, rule) for n, rule in enumerate(draw(st.lists(rules, max_size=3)))]
    return load_policy("\n".join(parts).encode(), "policy.toml", enforced=LANGUAGE)


http_requests = st.builds(
    Operation,
    method=st.sampled_from(("GET", "POST")),
    name=st.sampled_from(("/", "/api", "/api/x", "/api/y", "/api/x/y", "/admin/x")),
)
mcp_requests = st.one_of(
    st.builds(Operation, method=st.just("tools/call"), name=st.sampled_from(("get_page", "get_x", "delete_page"))),
    st.builds(Operation, method=st.just("resources/read"), name=st.sampled_from(("docs://a/b", "docs://c"))),
)  # fmt: skip
