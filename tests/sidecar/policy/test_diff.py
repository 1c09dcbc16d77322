from itertools import chain

import pytest
from hypothesis import given

from pki.errors import LocalError
from sidecar.policy import diff
from sidecar.policy.diff import Difference, Edit, Kind, difference
from sidecar.policy.features import LANGUAGE
from sidecar.policy.load import load_policy
from tests.sidecar.policy.reference import World, worlds
from tests.sidecar.policy.world import NOW, POLICY, policy_of


def changed(before: str, after: str) -> Difference:
    return difference(policy_of(before), policy_of(after), NOW)


def said(found: Difference) -> list[str]:
    return [f"{change.kind} {' '.join(change.subject)}" for change in found.changes]


def test_a_policy_does_not_differ_from_itself() -> None:
    """Nor from one that says the same in other words, in another order, under other rule ids."""
    assert not changed(POLICY, POLICY)
    renamed = POLICY.replace('"read-wiki"', '"wiki-readers"').replace("\n[[bind", "\n\n# moved\n[[bind")
    spare = '[[grants]]\nid = "again"\nagents = ["researcher"]\nservices = ["wiki"]\nexpires = 2090-01-01\n'
    assert not changed(POLICY, renamed + spare)


def test_the_first_policy_is_all_gain() -> None:
    """There was nothing before it."""
    found = difference(None, policy_of(POLICY), NOW)
    assert {change.kind for change in found.changes} == {Kind.GAINED}
    assert list(found.by_agent()) == ["clerk", "researcher"]
    assert (found.count(Kind.GAINED), found.count(Kind.LOST)) == (4, 0)
    assert (
        Edit("binding of clerk to tickets", "", "", "listen 127.0.0.1:15002, callers kernel") in found.edits
    )


def test_what_is_gained_lost_and_changed_is_told_apart() -> None:
    """A deny takes away, a grant gives, an end is another term."""
    after = POLICY.replace('id = "all-actions"', 'id = "all-actions"\nexpires = 2090-01-01')
    after = after.replace('services = ["vault"]', 'services = ["wiki"]').replace(
        'agents = ["researcher"]\nservices = ["wiki"]', 'agents = ["clerk"]\nservices = ["wiki"]'
    )
    found = changed(POLICY, after)
    assert said(found) == [
        "changed clerk tickets any",
        "gained clerk vault any",
        "changed researcher tickets any",
        "changed researcher vault any",
        "lost researcher wiki any",
    ]
    [was], [becomes] = found.changes[0].before, found.changes[0].after
    assert (was.conditions, becomes.conditions) == ((), ("until 2090-01-01",))


def test_a_service_that_moves_to_another_segment_is_seen_where_it_matters() -> None:
    """One line of text: one agent loses it, another has it on other terms, and its table says why."""
    found = changed(POLICY, POLICY.replace('segment = "retrieval"', 'segment = "action"'))
    assert said(found) == ["gained clerk wiki any", "changed researcher wiki any"]
    assert found.edits == (Edit("service wiki", "segment", "retrieval", "action"),)


@pytest.mark.parametrize(
    ("old", "new", "edit"),
    [
        ("127.0.0.1:8001", "10.0.0.9:22", Edit("service wiki", "target", "127.0.0.1:8001", "10.0.0.9:22")),
        ("uid = 1001", "uid = 1009", Edit("agent researcher", "uid", "1001", "1009")),
        (
            'nodes = ["agents-1", "agents-2"]',
            'nodes = ["agents-2", "agents-1", "agents-3"]',
            Edit("agent clerk", "nodes", "agents-1, agents-2", "agents-1, agents-2, agents-3"),
        ),
        (
            "listen = 15001",
            'listen = "unix:/run/wiki.sock"',
            Edit("binding of researcher to wiki", "listen", "127.0.0.1:15001", "unix:/run/wiki.sock"),
        ),
        (
            "[services.wiki]",
            '[segments.action]\nstale-after = "2m"\n\n[services.wiki]',
            Edit("segment action", "stale-after", "1m", "2m"),
        ),
        (
            'target = "127.0.0.1:8001"',
            'target = "127.0.0.1:8001"\nopen-target = true',
            Edit("service wiki", "open-target", "false", "true"),
        ),
    ],
)
def test_a_name_that_means_something_else_is_an_edit(old: str, new: str, edit: Edit) -> None:
    """Permissions are the same, and yet another machine, user or port is behind them."""
    found = changed(POLICY, POLICY.replace(old, new, 1))
    assert found.edits == (edit,)
    assert not found.changes


def test_all_that_a_tls_target_trusts_is_compared() -> None:
    """Another CA behind the same address is another tool."""
    target = 'target = "tls://tool.internal:443"\nca = "/etc/tool.pem"'
    before = POLICY.replace('target = "127.0.0.1:8001"', target)
    [edit] = changed(before, before.replace("/etc/tool.pem", "/etc/other.pem")).edits
    assert edit.before == "tls://tool.internal:443 (ca /etc/tool.pem, server-name tool.internal)"
    after = before.replace(
        'ca = "/etc/tool.pem"', 'ca = "/etc/tool.pem"\ninject = {client-certificate = "x"}'
    )
    [edit] = changed(before, after).edits
    assert edit.after == "tls://tool.internal:443 (ca /etc/tool.pem, server-name tool.internal, x)"


def test_a_table_that_comes_or_goes_is_shown_whole() -> None:
    """Setting by setting, on the side that has it."""
    more = '[segments.reporting]\nclass = "read"\nstale-after = "30m"\n'
    whole = "operation-class read, stale-after 30m, audit required, on-stale refuse"
    [edit] = changed(POLICY, POLICY + more).edits
    assert (edit.table, edit.setting, edit.before) == ("segment reporting", "", "")
    assert edit.after.startswith(whole)
    [edit] = changed(POLICY + more, POLICY).edits
    assert (edit.after, edit.before.startswith(whole)) == ("", True)


def test_a_policy_that_permits_too_much_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rules by segment may mean a hundred million permissions: an error, not an empty machine."""
    monkeypatch.setattr(diff, "MAX_PERMISSIONS", 3)
    with pytest.raises(LocalError, match="over 3 permissions"):
        changed(POLICY, POLICY)


WHOLE = """
[services.crm]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:2"
protocol = "mcp"
[[services.crm.operations]]
tools = ["delete_*"]
segment = "high-risk"
class = "mutate"
blast-radius = ["customers"]
[segments.action]
slo = { p99 = "20ms", objective = 99.9 }
[agents.temp]
nodes = ["agents-1"]
uid = 1005
session = { lifetime = "8h", idle = "30m" }
quota = { streams = 64, requests = { count = 600, per = "1m" } }
[[pins]]
service = "crm"
tool = "get"
digest = "%s"
[[escalations]]
id = "more"
agents = ["temp"]
from = "retrieval"
to = "high-risk"
services = ["crm"]
max-ttl = "15m"
approvals = 1
approvers = ["role:approver"]
""" % ("ab" * 32)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'tools = ["delete_*"]',
            'tools = ["drop_*"]',
            (
                "service crm operations: {tools delete_*, segment high-risk, class mutate, blast-radius customers}"
                " -> {tools drop_*, segment high-risk, class mutate, blast-radius customers}"
            ),
        ),
        (
            'p99 = "20ms"',
            'p99 = "2s"',
            "segment action slo: p99 20ms objective 99.9 -> p99 2s objective 99.9",
        ),
        ('idle = "30m"', 'idle = "31m"', "agent temp session-idle: 30m -> 31m"),
        (
            "streams = 64",
            "streams = 6",
            "agent temp quota: streams 64 requests count 600 per 1m -> streams 6 requests count 600 per 1m",
        ),
        ("ab" * 32, "cd" * 32, f"pin of get of crm digest: {'ab' * 32} -> {'cd' * 32}"),
        ('max-ttl = "15m"', 'max-ttl = "1h"', "escalation more max-ttl: 15m -> 1h"),
        ("\n[services.crm]", 'requires = ["tcp"]\n[services.crm]', "policy requires:  -> tcp"),
    ],
)
def test_every_table_of_the_language_is_compared(old: str, new: str, said: str) -> None:
    """In the words of the file, durations too."""
    base = WHOLE if old in WHOLE else ""
    assert base.count(old) == 1
    before, after = (
        load_policy(text.encode(), "policy.toml", enforced=LANGUAGE)
        for text in (base, base.replace(old, new))
    )
    [edit] = difference(before, after, NOW).edits
    assert f"{edit.table} {edit.setting}: {edit.before} -> {edit.after}" == said


@given(worlds, worlds)
def test_there_and_back_is_the_same_difference(one: World, other: World) -> None:
    """What is gained on the way there is lost on the way back."""
    there, back = changed(one.text, other.text), changed(other.text, one.text)
    assert [(c.before, c.after) for c in there.changes] == [(c.after, c.before) for c in back.changes]
    assert [(e.table, e.setting, e.before, e.after) for e in there.edits] == [
        (e.table, e.setting, e.after, e.before) for e in back.edits
    ]
    assert all(change.before or change.after for change in chain(there.changes, back.changes))
