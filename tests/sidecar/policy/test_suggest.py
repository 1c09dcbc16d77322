from sidecar.audit.inventory import STREAM, Line
from sidecar.policy.load import load_policy
from sidecar.policy.suggest import suggestions
from tests.sidecar.policy.language import whole_policy_of

TEXT = """
[services.wiki]
segment = "retrieval"
nodes = ["tools-1"]
target = "h:1"
protocol = "http"
[services.crm]
segment = "action"
nodes = ["tools-1"]
target = "h:2"
protocol = "mcp"
[services.db]
segment = "action"
nodes = ["tools-1"]
target = "h:3"
[agents.researcher]
nodes = ["agents-1"]
uid = 1
[[bindings]]
agent = "researcher"
service = "wiki"
listen = 15001
[[bindings]]
agent = "researcher"
service = "crm"
listen = 15002
[[bindings]]
agent = "researcher"
service = "db"
listen = 15003
"""
POLICY = whole_policy_of(TEXT)


def seen(service: str, operation: str, **counts: int) -> Line:
    return Line("researcher", service, operation, **counts)  # type: ignore[arg-type]


def test_each_uncovered_need_becomes_a_pattern_with_its_evidence() -> None:
    """Sorted into one grant for agent and service; what is rare is marked; the result is a policy that loads."""
    text = suggestions(
        [
            seen("wiki", "GET /api/pages/*", would_deny=40),
            seen("wiki", "POST /api/pages/*", would_deny=1, denied=1),
            seen("wiki", "GET /covered", allowed=5),
            seen("crm", "tools/call get_ticket", would_deny=9),
            seen("crm", "resources/read docs://a", denied=4),
            seen("crm", "tools/list", would_deny=9),
            seen("db", STREAM, would_deny=3),
            seen("gone", "GET /", would_deny=3),
            Line("nobody", "wiki", "GET /", would_deny=3),
        ],
        POLICY,
    )
    for words in (
        '{ methods = ["GET"], path = "/api/pages/*" },  # seen 40 times\n',
        '{ methods = ["POST"], path = "/api/pages/*" },  # seen 2 times, 1 of them refused; RARE\n',
        '{ tools = ["get_ticket"] },  # seen 9 times\n',
        '{ resources = ["docs://a"] },  # seen 4 times, 4 of them refused\n',
        'id = "seen-researcher-db"\nagents = ["researcher"]\nservices = ["db"]\n# 3 streams seen\n',
    ):
        assert words in text
    assert "covered" not in text.replace("suggested", "")
    assert "gone" not in text
    grants = load_policy((TEXT + text).encode(), "p").grants.rules
    assert sorted(grant.id for grant in grants) == [
        "seen-researcher-crm",
        "seen-researcher-db",
        "seen-researcher-wiki",
    ]


def test_nothing_is_suggested_where_all_is_covered() -> None:
    """And what no pattern can name is said to be so."""
    assert suggestions([seen("wiki", "GET /a", allowed=5)], POLICY) == ""
    assert "nothing of it can be granted" in suggestions([seen("crm", "tools/list", denied=5)], POLICY)
