import hashlib
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import MINUTE, SECOND
from pki.errors import ConfigError
from sidecar.address import Address
from sidecar.defaults import POLICY_PAIRS
from sidecar.policy.load import load_policy
from sidecar.policy.match import Effect
from sidecar.policy.model import Audit, Binding, OnStale, OperationClass, Protocol, Segment, Verdict
from tests.sidecar.policy.world import POLICY, policy_of


def faults_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        policy_of(text)
    return [str(fault) for fault in caught.value.faults]


def test_a_file_becomes_a_policy() -> None:
    """Every name resolved, every entry with its line, the whole named by the digest of its text."""
    policy = policy_of(POLICY)
    wiki = policy.services["wiki"]
    assert policy.digest == hashlib.sha256(POLICY.encode()).hexdigest()
    assert (wiki.segment.name, wiki.nodes, wiki.target) == (
        "retrieval",
        frozenset({"tools-1"}),
        Address("127.0.0.1", 8001),
    )
    assert (wiki.protocol, wiki.open_target, wiki.line) == (Protocol.TCP, False, 1)
    assert (policy.agents["researcher"].uid, policy.agents["clerk"].uid) == (1001, "clerk")
    assert policy.bindings[0] == Binding("researcher", "wiki", 15001, 24)
    assert [(rule.effect, rule.id, rule.line) for rule in policy.grants.rules] == [
        (Effect.GRANT, "read-wiki", 34),
        (Effect.GRANT, "all-actions", 39),
    ]
    assert [(rule.effect, rule.id, rule.line) for rule in policy.denies.rules] == [
        (Effect.DENY, "no-vault", 44)
    ]


def test_a_policy_cannot_be_changed() -> None:
    """A decision that is under way reads one policy from end to end."""
    policy = policy_of(POLICY)
    with pytest.raises(TypeError):
        policy.services["new"] = policy.services["wiki"]  # type: ignore[index]  # what must not work


def test_an_empty_file_is_a_policy_that_allows_nothing() -> None:
    """The presets are there, and nothing else."""
    policy = policy_of("")
    assert (dict(policy.services), dict(policy.agents), policy.bindings) == ({}, {}, ())
    assert policy.grants.rules == policy.denies.rules == ()
    assert dict(policy.segments) == {
        "retrieval": Segment(
            "retrieval", OperationClass.READ, 5 * MINUTE, Audit.BEST_EFFORT, OnStale.REFUSE, 0
        ),
        "action": Segment("action", OperationClass.MUTATE, MINUTE, Audit.REQUIRED, OnStale.REFUSE, 0),
        "high-risk": Segment("high-risk", OperationClass.MUTATE, 15 * SECOND, Audit.REQUIRED, OnStale.CUT, 0),
    }


def test_a_table_changes_of_a_preset_what_it_names() -> None:
    """The rest stays as the preset has it."""
    segment = policy_of('[segments.high-risk]\nstale-after = "5s"').segments["high-risk"]
    assert segment == Segment("high-risk", OperationClass.MUTATE, 5 * SECOND, Audit.REQUIRED, OnStale.CUT, 1)


def test_a_segment_of_ones_own_says_what_it_is() -> None:
    """Its class and staleness have no default; its records are kept unless it says otherwise."""
    segment = policy_of('[segments.x]\nclass = "read"\nstale-after = "9s"').segments["x"]
    assert segment == Segment("x", OperationClass.READ, 9 * SECOND, Audit.REQUIRED, OnStale.REFUSE, 1)
    assert faults_of("[segments.x]") == [
        "policy.toml:1 segments.x.class: is missing",
        "policy.toml:1 segments.x.stale-after: is missing",
    ]


def test_every_fault_is_reported_at_once() -> None:
    """Unknown keys, wrong types and dangling names in one file, even in one entry, hide none of each other."""
    text = """\
[services.wiki]
segment = "retreival"
nodes = "tools-1"
target = 8001
protocoll = "tcp"

[agents.researcher]
uid = "1000"

[[bindings]]
agent = "reseacher"
service = "wikki"
listen = 0

[[grants]]
id = "read wiki"
agents = ["researcher", "nobody"]
services = [
  "wiki",
  "wikki",
]
expires = "2027-01-01"
ownr = "x"

[[tests]]
agent = "researcher"
service = "wikki"
expect = "refuse"
"""
    assert faults_of(text) == [
        'policy.toml:2 services.wiki.segment: there is no segment "retreival" (did you mean "retrieval"?)',
        "policy.toml:3 services.wiki.nodes: must be a list",
        'policy.toml:4 services.wiki.target: must be a string "host:port"',
        'policy.toml:5 services.wiki.protocoll: unknown key (did you mean "protocol"?)',
        "policy.toml:8 agents.researcher.uid: must be a number, or a user name in quotes",
        'policy.toml:11 bindings[0].agent: there is no agent "reseacher" (did you mean "researcher"?)',
        'policy.toml:12 bindings[0].service: there is no service "wikki" (did you mean "wiki"?)',
        "policy.toml:13 bindings[0].listen: must be at least 1",
        'policy.toml:16 grants[0].id: "read wiki" is not a name (1 to 63 of a-z, 0-9 and inner hyphens)',
        'policy.toml:17 grants[0].agents[1]: there is no agent "nobody"',
        'policy.toml:18 grants[0].services[1]: there is no service "wikki" (did you mean "wiki"?)',
        "policy.toml:22 grants[0].expires: must be a date such as 2027-01-01, without quotes",
        'policy.toml:23 grants[0].ownr: unknown key (did you mean "owner"?)',
        'policy.toml:27 tests[0].service: there is no service "wikki" (did you mean "wiki"?)',
        "policy.toml:28 tests[0].expect: must be one of 'allow' or 'deny'",
    ]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('target = "127.0.0.1:8001"', 'target = "unix:/run/x"', "is not dialled by this version"),
        ('target = "127.0.0.1:8001"', 'target = "tls://h:443"', "is not dialled by this version"),
        ('target = "127.0.0.1:8001"', "target = 8001", 'must be a string "host:port"'),
        ('segment = "retrieval"', 'segment = "retrieval"\nprotocol = "http"', "cannot enforce http"),
        ('segment = "retrieval"', 'segment = "retrieval"\nprotocol = "mcp"', "cannot enforce mcp"),
        ('segment = "retrieval"', 'segment = "retrieval"\nprotocol = "udp"', "must be one of 'tcp'"),
        ('segment = "retrieval"', 'segment = "retrieval"\ninject = {}', "not enforced by this version"),
        ('services = ["wiki"]', "http = [{}]", "not enforced by this version"),
        ("listen = 15001", 'listen = "unix:/run/x"', "Unix sockets are not served by this version"),
        ("listen = 15001", "listen = true", "must be an integer"),
        ("listen = 15001", "listen = 65536", "must be at most 65535"),
        ("uid = 1001", "uid = true", "must be a number, or a user name"),
        ("uid = 1001", "uid = 4294967295", "must be from 0 to 4294967294"),
        ("uid = 1001", "uid = -1", "must be from 0 to 4294967294"),
        ('services = ["wiki"]', "expires = 10:00:00", "must be a date"),
        ('id = "read-wiki"', "id = 5", "must be a string"),
    ],
)
def test_what_this_version_cannot_enforce_is_refused(old: str, new: str, fault: str) -> None:
    """A policy never says more than is done: what is not understood refuses the whole file."""
    assert old in POLICY
    [said] = faults_of(POLICY.replace(old, new, 1))
    assert fault in said


def test_what_comes_later_is_refused_by_name() -> None:
    """A table of the language that this version lacks is no typing error."""
    [said] = faults_of("[[escalations]]")
    assert "escalations: not enforced by this version" in said


def test_two_rules_cannot_share_an_id() -> None:
    """A decision names its rule by id, so grants and denies draw from one set of names."""
    said = faults_of(POLICY.replace('"no-vault"', '"read-wiki"'))
    assert [fault.split(" (")[0] for fault in said] == [
        'policy.toml:35 grants[0].id: "read-wiki" is the id of several rules',
        'policy.toml:45 denies[0].id: "read-wiki" is the id of several rules',
    ]


def test_two_bindings_cannot_share_a_port_of_a_node() -> None:
    """Agents that meet on no node may use one port, others may not."""
    said = faults_of(POLICY.replace("15002", "15001"))
    assert [fault.split(" (")[0] for fault in said] == [
        'policy.toml:27 bindings[0].listen: port 15001 of node "agents-1" has several bindings',
        'policy.toml:32 bindings[1].listen: port 15001 of node "agents-1" has several bindings',
    ]
    apart = POLICY.replace("15002", "15001").replace('"agents-1", "agents-2"', '"agents-2"')
    assert {binding.port for binding in policy_of(apart).bindings} == {15001}


@pytest.mark.parametrize(
    ("written", "expires"),
    [
        ("2027-01-01", datetime(2027, 1, 1, tzinfo=UTC)),
        ("2027-01-01T12:00:00", datetime(2027, 1, 1, 12, tzinfo=UTC)),
        ("2027-01-01T12:00:00.5+02:00", datetime(2027, 1, 1, 10, 0, 0, 500_000, tzinfo=UTC)),
        ("0001-01-01T00:00:00+23:59", None),
    ],
)
def test_a_rule_expires_at_an_instant(written: str, expires: datetime | None) -> None:
    """A date is its first instant; what has no offset is UTC."""
    text = POLICY.replace('id = "read-wiki"', f'id = "read-wiki"\nexpires = {written}')
    found = policy_of(text).grants.rules[0].expires
    assert found is not None
    assert found < 0 if expires is None else found == round(expires.timestamp() * SECOND)


def test_expectations_are_kept() -> None:
    """[[tests]] travel with the policy."""
    text = POLICY + '[[tests]]\nagent = "clerk"\nservice = "vault"\nexpect = "deny"\n'
    [test] = policy_of(text).tests
    assert (test.agent, test.service, test.expect, test.line) == ("clerk", "vault", Verdict.DENY, 48)


def test_a_policy_that_would_not_fit_in_memory_is_refused() -> None:
    """A grant of all agents on all services is a product: a megabyte of text could name 100 million pairs."""
    count = int(POLICY_PAIRS**0.5) + 1
    names = [f"n{i}" for i in range(count)]
    text = "\n".join(
        [
            "[agents]",
            *(f"{name} = {{ uid = 1 }}" for name in names),
            "[services]",
            *(f'{name} = {{ segment = "action", target = "h:1" }}' for name in names),
            "[[grants]]",
            'id = "all"',
            f"agents = {names}",
            f"services = {names}",
        ]
    )
    [said] = faults_of(text)
    assert said.startswith("policy.toml: its rules name 1002001 pairs of agent and service, at most 1000000")


LINES = """
    [[grants]] [services.a] [agents.b] [[bindings]] [segments.retrieval] [[tests]] [[denies]]
    id='x' agents=['b'] agents=3 services=['a'] segments=['action',1] expires=2000-01-01
    agent='b' service='a' listen=1 nodes=['n'] nodes=[[]] uid=1 target='h:1' uid={}
    segment='action' segment=[] expect='deny' grants=1 services=[1] id=[] agents={}
"""


@given(st.lists(st.sampled_from(LINES.split()), max_size=14))
def test_any_file_is_a_policy_or_a_list_of_faults(lines: list[str]) -> None:
    """Whatever is wrong with a file, its author sees where."""
    with suppress(ConfigError):
        load_policy("\n".join(lines).encode(), "policy.toml")
