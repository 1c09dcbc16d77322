from pathlib import Path

import pytest

from pki.clock import Wall
from sidecar.policy.check import Finding, Severity, check, features_of
from sidecar.policy.features import LANGUAGE, Feature
from sidecar.snapshot import NodeMember, Roster
from tests.sidecar.policy.language import whole_policy_of
from tests.sidecar.policy.world import NODES, NOW, POLICY, policy_of, roster

JOINED = roster(*NODES)

ROOT = POLICY.replace("uid = 1001", "uid = 0")
ONE_USER = POLICY.replace('"clerk"\n\n[[bindings]]', "1001\n\n[[bindings]]")
BESIDE = POLICY.replace('nodes = ["tools-1"]', 'nodes = ["tools-1", "agents-2", "agents-1"]')


def findings_of(text: str, **surroundings: bool) -> list[str]:
    """What is found with every node joined, as ``level:line what``."""
    found = check(policy_of(text), JOINED, dev=surroundings.get("dev", False))
    return [f"{finding.severity}:{finding.line} {finding.what}" for finding in found]


def test_a_sound_policy_has_no_findings() -> None:
    """With its nodes in the roster there is nothing to say."""
    assert findings_of(POLICY) == []


def test_offline_unknown_nodes_are_one_warning() -> None:
    """Without a roster nobody can say whether a node's name is right."""
    assert check(policy_of(POLICY)) == [
        Finding(
            Severity.WARNING,
            0,
            "no roster at hand, so these nodes were not checked: agents-1, agents-2, tools-1, tools-2",
        )
    ]
    assert check(policy_of("")) == []


def test_a_node_outside_the_roster_is_an_error() -> None:
    """Each place that names it is found, with the nearest member."""
    found = check(policy_of(POLICY), roster("agents-1", "tools-1", "tools-2", "another"))
    assert found == [
        Finding(
            Severity.ERROR,
            20,
            "agent clerk: there is no node agents-2 in the roster",
            'did you mean "agents-1"?',
        )
    ]
    [*_, last] = check(policy_of(POLICY), roster("agents-1", "agents-2", "tools-2"))
    assert last.line == 6
    assert check(policy_of(POLICY), roster())[0].hint == "join it first"


@pytest.mark.parametrize("uid", ["0", '"root"'])
def test_root_is_no_agent(uid: str) -> None:
    """The local root can become anyone; only a mesh for trying out may run as it."""
    text = POLICY.replace("uid = 1001", f"uid = {uid}")
    assert findings_of(text) == ["error:16 agent researcher: root may not be an agent"]
    assert findings_of(text, dev=True) == []


def test_agents_on_one_node_have_different_users() -> None:
    """Callers are told apart by uid; where agents never meet they may share one."""
    assert findings_of(ONE_USER) == ["error:20 agents researcher and clerk have one uid on node agents-1"]
    assert findings_of(ONE_USER, dev=True) == []
    assert findings_of(ONE_USER.replace('["agents-1", "agents-2"]', '["agents-2"]')) == []


def test_two_agents_are_reported_once_for_all_their_nodes() -> None:
    """One mistake is one finding."""
    text = ONE_USER.replace('nodes = ["agents-1"]', 'nodes = ["agents-1", "agents-2"]')
    assert findings_of(text) == ["error:20 agents researcher and clerk have one uid on node agents-1"]


def test_a_target_beside_agents_is_refused_unless_accepted() -> None:
    """A local user could dial the tool directly, past every rule."""
    assert findings_of(BESIDE) == [
        "error:1 service wiki: on node agents-1, which also runs agents, any user can dial 127.0.0.1:8001"
    ]
    assert (
        findings_of(BESIDE.replace('target = "127.0.0.1:8001"', 'target = "h:1"\nopen-target = true')) == []
    )


def test_a_rule_that_never_matches_is_an_error() -> None:
    """Its author thinks that something is allowed, or denied."""
    assert findings_of(POLICY + '[[denies]]\nid = "x"\n') == [
        "error:48 deny x never matches: it names no agents"
    ]


def test_a_covered_rule_is_a_warning() -> None:
    """It does no harm, and is not what decides."""
    more = '[[grants]]\nid = "x"\nagents = ["clerk"]\nservices = ["vault"]\n'
    assert findings_of(POLICY + more) == [
        "warning:48 grant x changes nothing: deny no-vault covers it",
    ]


def test_a_segment_without_services_is_a_warning() -> None:
    """Presets that the file does not mention may be empty."""
    assert findings_of('[segments.action]\nstale-after = "1m"') == [
        "warning:1 segment action has no services"
    ]
    assert findings_of("") == []


def test_an_expired_rule_is_a_warning() -> None:
    """A policy does not become unusable by growing old."""
    text = POLICY.replace('id = "read-wiki"', 'id = "read-wiki"\nexpires = 1970-01-02')
    found = check(policy_of(text), JOINED, now=NOW)
    assert found == [Finding(Severity.WARNING, 34, "grant read-wiki has expired")]
    assert check(policy_of(text), JOINED, now=Wall(0)) == []


def expectation(agent: str, service: str, expect: str) -> str:
    return f'[[tests]]\nagent = "{agent}"\nservice = "{service}"\nexpect = "{expect}"\n'


def test_expectations_that_hold_are_silent() -> None:
    """A policy that does what its author expects."""
    text = POLICY + expectation("researcher", "wiki", "allow") + expectation("clerk", "vault", "deny")
    assert findings_of(text) == []


@pytest.mark.parametrize(
    ("tests", "what", "why"),
    [
        (
            expectation("researcher", "wiki", "deny"),
            "test failed: agent researcher to service wiki: allow, not deny",
            "grant read-wiki",
        ),
        (
            expectation("clerk", "vault", "allow"),
            "test failed: agent clerk to service vault: deny, not allow",
            "deny no-vault keeps agent clerk and vault apart",
        ),
        (
            expectation("clerk", "wiki", "allow"),
            "test failed: agent clerk to service wiki: deny, not allow",
            "no grant lets agent clerk reach wiki",
        ),
    ],
)
def test_an_expectation_that_fails_is_an_error(tests: str, what: str, why: str) -> None:
    """It names the rule that decided otherwise, or its absence."""
    assert check(policy_of(POLICY + tests), JOINED) == [Finding(Severity.ERROR, 48, what, why)]


def test_an_expectation_about_an_agent_without_a_node_is_refused() -> None:
    """It can be nowhere, so it reaches nothing."""
    more = '[agents.idler]\nuid = 7\n[[grants]]\nid = "x"\nagents = ["idler", "clerk"]\nservices = ["wiki"]\n'
    [found] = check(policy_of(POLICY + more + expectation("idler", "wiki", "allow")), JOINED)
    assert found.what == "test failed: agent idler to service wiki: deny, not allow"


def test_findings_come_in_the_order_of_the_file() -> None:
    """Whoever mends them goes through the file once."""
    text = '[segments.x]\nclass = "read"\nstale-after = "1m"\n' + ROOT + '[[grants]]\nid = "y"\n'
    assert [line.split()[0] for line in findings_of(text)] == ["warning:1", "error:19", "error:51"]


def test_a_finding_prints_as_faults_do() -> None:
    """`policy check` prints faults and findings alike."""
    finding = Finding(Severity.ERROR, 7, "what", "hint")
    assert str(finding.fault("policy.toml")) == "policy.toml:7: error: what (hint)"
    assert str(Finding(Severity.WARNING, 0, "what").fault("policy.toml")) == "policy.toml: warning: what"


# The whole language

WHOLE = (Path(__file__).parent / "whole.toml").read_text()
FEATURES = tuple(sorted(feature for feature in LANGUAGE if feature is not Feature.TCP))


def members(*labels: str, features: tuple[str, ...] = FEATURES, of: str = "tools-1") -> Roster:
    """Two nodes, one of which has the labels."""
    return Roster(
        {
            name: NodeMember(name, (), "", features, labels if name == of else ())
            for name in ("agents-1", "tools-1")
        },
        {},
    )


def said_of(text: str, joined: Roster | None) -> list[str]:
    return [f"{one.severity} {one.what}" for one in check(whole_policy_of(text), joined)]


PLAIN = """\
[services.wiki]
segment = "retrieval"
labels = ["rack-a"]
target = "h:1"
protocol = "http"
[[services.wiki.operations]]
methods = ["DELETE"]
path = "/**"
segment = "action"
[services.crm]
segment = "retrieval"
nodes = ["tools-1"]
target = "h:2"
protocol = "mcp"
[agents.a]
nodes = ["agents-1"]
uid = 1
quota = { streams = 8, requests = { count = 60, per = "1m" }, bytes = { count = "1MiB", per = "1h" } }
session-quota = { streams = 8, requests = { count = 1, per = "1s" } }
[[grants]]
id = "read"
agents = ["a"]
services = ["wiki"]
http = [{ methods = ["GET"], path = "/api/**" }]
[[grants]]
id = "tools"
agents = ["a"]
services = ["crm"]
mcp = [{ tools = ["get_*"] }]
[[pins]]
service = "crm"
tool = "get_a"
digest = "0000000000000000000000000000000000000000000000000000000000000000"
[[tests]]
agent = "a"
service = "wiki"
request = { method = "GET", path = "/api/x" }
expect = "allow"
"""


def test_a_sound_policy_of_requests_has_no_findings() -> None:
    """Labels, operations, quotas, pins and tests of requests included."""
    assert said_of(PLAIN, members("rack-a")) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ('labels = ["rack-a"]', 'labels = ["rack-b"]', "error service wiki: no node of the roster has the labels rack-b"),
        ('[agents.a]', '[segments.high-risk]\n[agents.a]', "warning segment high-risk has no services"),
        ("streams = 8, requests = { count = 1,", "streams = 9, requests = { count = 1,", "warning agent a: session-quota has more streams than quota"),
        ("count = 1,", "count = 2,", "warning agent a: session-quota has more requests than quota"),
        ('tool = "get_a"', 'tool = "set_a"', "warning pin of set_a of service crm: no grant reaches it"),
        ('segment = "action"', 'segment = "action"\n[[services.wiki.operations]]\nmethods = ["DELETE"]\npath = "/x"\nclass = "read"', "error service wiki: these operations never count, line 6 has them all"),
        ('expect = "allow"', 'expect = "deny"', "error test failed: agent a to service wiki, GET /api/x: allow, not deny"),
        ('method = "GET", path = "/api/x"', 'method = "PUT", path = "/api/x"', "error test failed: agent a to service wiki, PUT /api/x: deny, not allow"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_requests_is_found(old: str, new: str, found: str) -> None:
    """One finding for one mistake."""
    assert old in PLAIN
    assert said_of(PLAIN.replace(old, new, 1), members("rack-a")) == [found]


def test_a_test_of_a_tool_names_it() -> None:
    """As it stands in the file."""
    text = PLAIN + '[[tests]]\nagent = "a"\nservice = "crm"\nrequest = { tool = "rm" }\nexpect = "allow"\n'
    assert said_of(text, None) == [
        "warning no roster at hand, so these nodes were not checked: agents-1, tools-1",
        "error test failed: agent a to service crm, tools/call rm: deny, not allow",
    ]


def test_a_test_in_an_observed_segment_is_of_the_rules() -> None:
    """What is passed there is refused all the same as far as the author's expectation goes."""
    text = PLAIN.replace('method = "GET", path = "/api/x"', 'method = "PUT", path = "/api/x"').replace(
        'expect = "allow"', 'expect = "deny"'
    )
    assert said_of('[segments.retrieval]\nmode = "observe"\n' + text, members("rack-a")) == []


def test_a_feature_that_nodes_lack_is_a_warning_unless_required() -> None:
    """Such a node would refuse the policy; requires keeps it from being applied."""
    few = members("rack-a", features=("tcp", "mcp", "quotas", "pins"))
    assert said_of(PLAIN, few) == ["warning uses http, which 2 of 2 nodes do not know, agents-1 for one"]
    assert said_of('requires = ["http"]\n' + PLAIN, few) == []


def test_an_escalation_that_nobody_can_ask_for_is_an_error() -> None:
    """Its author thinks that there is a way."""
    text = WHOLE.replace('agents = ["researcher"]\nfrom', "agents = []\nfrom")
    assert "error escalation up can never be asked for: it names no agents" in said_of(text, None)


def test_every_feature_that_a_policy_uses_is_seen() -> None:
    """The whole language uses them all."""
    assert features_of(whole_policy_of(WHOLE)) == LANGUAGE - {Feature.TCP}
    assert features_of(policy_of(POLICY)) == frozenset()


def test_a_target_beside_agents_by_label_is_found() -> None:
    """With the roster at hand it is known where a service stands."""
    assert said_of(PLAIN, members("rack-a", of="agents-1")) == [
        "error service wiki: on node agents-1, which also runs agents, any user can dial h:1"
    ]
