import hashlib
from contextlib import suppress

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
from sidecar.policy.target import TcpTarget
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
        TcpTarget(Address("127.0.0.1", 8001)),
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
            "retrieval", OperationClass.READ, 5 * MINUTE, Audit.BEST_EFFORT, OnStale.REFUSE, 0, 5 * SECOND
        ),
        "action": Segment("action", OperationClass.MUTATE, MINUTE, Audit.REQUIRED, OnStale.REFUSE, 0, SECOND),
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
