import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import SECOND
from pki.errors import ConfigError
from sidecar.address import Address
from sidecar.policy.load import load_policy
from sidecar.policy.model import Callers, Hours, Mode
from sidecar.policy.tables.defined import Defined
from sidecar.policy.tables.escalations import hours_of
from sidecar.policy.tables.policy import PolicyTables
from sidecar.policy.tables.presets import PRESETS
from sidecar.policy.target import TcpTarget, TlsTarget, UnixTarget
from sidecar.toml import Document, Table
from tests.sidecar.policy.language import whole_policy_of
from tests.sidecar.policy.world import POLICY, policy_of


def test_what_is_defined_is_read_in_spite_of_faults() -> None:
    """A name with a faulty entry is not unknown as well."""
    defined = Defined.by(
        {
            "segments": {"x": 1},
            "services": {"wiki": []},
            "agents": {"a": {"nodes": ["n1", 7, "n2"]}, "b": {"nodes": "n1"}, "c": 5},
            "bindings": [
                {"agent": "a", "listen": 1},
                {"agent": "a", "listen": 1},
                {"agent": "b", "listen": 1},
                {"agent": ["a"], "listen": 1},
                {"agent": "nobody", "listen": 1},
                {"agent": "a", "listen": "1"},
                "row",
            ],
            "grants": [{"id": "x"}, {"id": []}, {}],
            "denies": [{"id": "x"}],
        }
    )
    assert defined.names == {
        "segment": frozenset({"x", *PRESETS}),
        "service": frozenset({"wiki"}),
        "agent": frozenset({"a", "b", "c"}),
    }
    assert defined.nodes == {"a": frozenset({"n1", "n2"}), "b": frozenset(), "c": frozenset()}
    assert defined.entrances == Counter({("n1", 1): 2, ("n2", 1): 2})
    assert defined.rule_ids == Counter({"x": 2})


def test_segments_of_a_wrong_type_are_a_fault() -> None:
    """The presets are merged into tables, and into nothing else."""
    for tables in ({"segments": 5}, {"segments": {"action": 5}}):
        with pytest.raises(ConfigError, match="must be a table"):
            Document("policy.toml", tables, {(): 1}).load(PolicyTables, Defined.by(tables))


def faults_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        policy_of(text)
    return [str(fault) for fault in caught.value.faults]


RULE = """
[[invalidations]]
id = "probing"
on = "refusals"
agents = ["researcher"]
over = { count = 20, per = "1m" }
lock = "session"
"""


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('lock = "session"', 'lock = "node"', "refusals does not lock a node"),
        ('agents = ["researcher"]', "", "refusals needs agents and over"),
        ('over = { count = 20, per = "1m" }', "", "refusals needs agents and over"),
        ('agents = ["researcher"]', 'agents = ["resaercher"]', "there is no agent"),
        ("count = 20", "count = 0", "must be at least 1"),
        ('on = "refusals"', 'on = "refusal"', "must be one of"),
        ('lock = "session"', 'lock = "session"\nttl = "5h"', "must be from"),
        ('on = "refusals"', 'on = "audit-gap"', "audit-gap does not lock a session"),
        ('id = "probing"', 'id = "read-wiki"', "is the id of several rules"),
    ],
)
def test_an_invalidation_that_cannot_work_is_refused(old: str, new: str, fault: str) -> None:
    """What it locks is what it is about; what is normal now and then needs a number and whose it is."""
    policy_of(POLICY + RULE)
    assert any(fault in one for one in faults_of(POLICY + RULE.replace(old, new))), faults_of(
        POLICY + RULE.replace(old, new)
    )


def test_what_happens_once_is_not_counted() -> None:
    """A drifted tool, a clone and an audit gap need no window, and have no agents."""
    for what, lock in (("tool-drift", "service"), ("clone", "node"), ("audit-gap", "node")):
        plain = f'[[invalidations]]\nid = "r"\non = "{what}"\nlock = "{lock}"\n'
        rule = policy_of(POLICY + plain).invalidations["r"]
        assert (rule.over, rule.agents, rule.mode) == (None, frozenset(), Mode.ENFORCE)
        said = faults_of(POLICY + plain + 'agents = ["researcher"]\n')
        assert any("has no agents and no over" in one for one in said), said


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
        'policy.toml:4 services.wiki.target: must be a string "host:port", "unix:/path" or "tls://host:port"',
        'policy.toml:5 services.wiki.protocoll: unknown key (did you mean "protocol"?)',
        "policy.toml:8 agents.researcher.uid: must be a number, or a user name in quotes",
        'policy.toml:11 bindings[0].agent: there is no agent "reseacher" (did you mean "researcher"?)',
        'policy.toml:12 bindings[0].service: there is no service "wikki" (did you mean "wiki"?)',
        "policy.toml:13 bindings[0].listen: must be from 1 to 65535",
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
        ('target = "127.0.0.1:8001"', 'target = "unix:run/x"', "is not an absolute path"),
        ('target = "127.0.0.1:8001"', f'target = "unix:/{"x" * 107}"', "at most 107 bytes"),
        ('target = "127.0.0.1:8001"', 'target = "tls://h:443"', "needs a ca"),
        ('target = "127.0.0.1:8001"', 'target = "tls://h"', 'is not "host:port"'),
        ('target = "127.0.0.1:8001"', 'target = "h:1"\nca = "/ca.pem"', "go with a tls:// target"),
        ('target = "127.0.0.1:8001"', 'target = "tls://h:443"\nca = "ca.pem"', "must be an absolute path"),
        ('target = "127.0.0.1:8001"', "target = 8001", 'must be a string "host:port"'),
        (
            'segment = "retrieval"',
            'segment = "retrieval"\nprotocol = "tcp"\nendpoint = "/x"',
            "only mcp services",
        ),
        (
            'segment = "retrieval"',
            'segment = "retrieval"\nprotocol = "mcp"\npath-parameters = true',
            "only http services",
        ),
        (
            'segment = "retrieval"',
            'segment = "retrieval"\nprotocol = "mcp"\nendpoint = "/a/../b"',
            "is not a path",
        ),
        (
            'segment = "retrieval"',
            'segment = "retrieval"\nprotocol = "mcp"\nendpoint = "mcp"',
            "is not a path",
        ),
        ('segment = "retrieval"', 'segment = "retrieval"\nprotocol = "udp"', "must be one of 'tcp'"),
        (
            'target = "127.0.0.1:8001"',
            'target = "tls://h:1"\nca = "/c"\ninject = {client-certificate = "../x"}',
            "must be an absolute path, or the name of a systemd credential",
        ),
        ('services = ["wiki"]', 'services = ["wiki"]\nmcp = [{}]', "names no one kind"),
        ("listen = 15001", 'listen = "unix:run/x"', 'must be a port, or "unix:/path" of a socket'),
        ("listen = 15001", "listen = true", "must be a port"),
        ("listen = 15001", "listen = 65536", "must be from 1 to 65535"),
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


def test_targets_have_three_shapes() -> None:
    """TCP, a Unix socket, and TLS with a named CA, a server name and perhaps a client certificate."""
    tls = 'target = "tls://tool.internal:443"\nca = "/etc/ca.pem"\n'
    full = tls + 'server-name = "tool"\ninject = {client-certificate = "tool.pem"}'
    for text, target in (
        ('target = "h:1"', TcpTarget(Address("h", 1))),
        ('target = "unix:/run/x"', UnixTarget("/run/x")),
        (tls, TlsTarget(Address("tool.internal", 443), "/etc/ca.pem", "tool.internal")),
        (full, TlsTarget(Address("tool.internal", 443), "/etc/ca.pem", "tool", "tool.pem")),
    ):
        policy = policy_of(POLICY.replace('target = "127.0.0.1:8001"', text, 1))
        assert policy.services["wiki"].target == target


def test_a_binding_may_be_a_unix_socket() -> None:
    """It then has a path and no port; two bindings of one node cannot share it."""
    text = POLICY.replace("listen = 15001", 'listen = "unix:/run/wiki.sock"', 1)
    binding = policy_of(text).bindings[0]
    assert (binding.port, binding.path, binding.address) == (0, "/run/wiki.sock", "unix:/run/wiki.sock")
    assert policy_of(POLICY).bindings[0].address == "127.0.0.1:15001"


def test_a_binding_may_ask_its_callers_for_a_certificate() -> None:
    """It is then dialled by name, which is what its own certificate has."""
    kernel = policy_of(POLICY).bindings[0]
    text = POLICY.replace("listen = 15001", 'listen = 15001\ncallers = "mtls"', 1)
    mtls = policy_of(text).bindings[0]
    assert (kernel.callers, kernel.address) == (Callers.KERNEL, "127.0.0.1:15001")
    assert (mtls.callers, mtls.address) == (Callers.MTLS, "localhost:15001")


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


junk = st.recursive(
    st.none() | st.integers() | st.booleans() | st.sampled_from(["a", "wiki", "tcp"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "agent", "nodes", "listen", "a"]), inner, max_size=4)
    ),
    max_leaves=12,
)
KEYS = st.sampled_from(["segments", "services", "agents", "bindings", "grants", "denies", "tests"])


@given(st.dictionaries(KEYS, junk))
def test_any_tables_can_be_read_for_their_names(tables: dict[str, Any]) -> None:
    """What is wrong is left to the schema."""
    Defined.by(tables)


# The rest of the language


WHOLE = (Path(__file__).parent / "whole.toml").read_text()
"""A policy that says everything there is to say, once."""


def test_everything_there_is_to_say_can_be_said() -> None:
    """One file with every key of the language, and no fault."""
    whole_policy_of(WHOLE)


def test_every_key_of_the_language_has_a_description() -> None:
    """The reference page and the JSON Schema are made of them."""
    seen: set[type[Table]] = set()
    for table in _tables(PolicyTables):
        seen.add(table)
        for name, field in table.model_fields.items():
            assert field.description, f"{table.__name__}.{name}"
            assert "\n" not in field.description
            assert len(field.description) <= 110
    assert len(seen) > 20


def test_the_whole_example_uses_every_key() -> None:
    """So what is said of it is said of the language."""
    used = set(re.findall(r"[a-z][a-z0-9-]*(?= = )", WHOLE)) | set(
        re.findall(r"(?<=\.)[a-z-]+(?=\]\])", WHOLE)
    )
    headers = set(re.findall(r"(?m)^\[+([a-z-]+)", WHOLE))
    known = {field.alias for table in _tables(PolicyTables) for field in table.model_fields.values()}
    assert known - used - headers == set()


def _tables(model: type[Table]) -> Iterator[type[Table]]:
    yield model
    for field in model.model_fields.values():
        for inner in _tables_in(field.annotation):
            yield from _tables(inner)


def _tables_in(annotation: Any) -> Iterator[type[Table]]:
    if isinstance(annotation, type) and issubclass(annotation, Table):
        yield annotation
    for inner in get_args(annotation):
        yield from _tables_in(inner)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        # Segments
        ('p99 = "20ms"', 'p99 = "0s"', "must be from 1ms to 1m"),
        ("objective = 99.9", "objective = 100.0", "less than 100"),
        ('record = "none"', 'record = "payload"', "payloads are not recorded in this version"),
        ('decision-ttl = "2s"', 'decision-ttl = "2h"', "must be from 0s to 1h"),
        ('mode = "observe"', 'mode = "dry"', "must be one of 'enforce' or 'observe'"),
        # Services
        ('labels = ["rack-a"]', 'labels = ["rack-a"]\nnodes = ["n"]', "labels: stand beside nodes"),
        ('host = "wiki.internal"', 'host = "Wiki"', "is not a host name in lower case"),
        ('risk = "low"', 'risk = "none"', "must be one of"),
        ('header = "Authorization"', 'header = "a b"', "is not the name of a header"),
        ('header = "Authorization", ', "", "header and credential go together"),
        ('inject = { header = "Authorization", credential = "wiki-token", prefix = "Bearer " }', "inject = {}", "says nothing"),
        ('target = "127.0.0.1:5432"', 'target = "127.0.0.1:5432"\nhost = "x"', "nothing reads a host in a tcp stream"),
        (
            'target = "127.0.0.1:5432"',
            'target = "127.0.0.1:5432"\ninject = { header = "a", credential = "b" }',
            "nothing is injected into a tcp stream",
        ),
        ('methods = ["*"]\npath = "/admin/**"', 'tools = ["x"]', "number 1 names tools"),
        ('methods = ["*"]\npath = "/admin/**"', 'path = "/admin/**"', "names no requests"),
        ('methods = ["*"]\npath = "/admin/**"', "", "names no requests"),
        ('path = "/admin/**"\nsegment = "high-risk"', 'path = "/admin/**"', "says nothing of them"),
        ('path = "/admin/**"', "path = 5", "must be a string"),
        ('path = "/admin/**"', 'path = "/admin*"', "one whole segment"),
        ('methods = ["*"]', 'methods = ["get"]', "is not an HTTP method"),
        ('methods = ["*"]', "methods = []", "an empty list matches nothing"),
        ('tools = ["delete_*"]', 'tools = ["delete **"]', "is no name"),
        # Agents
        ('idle = "30m"', 'idle = "8h"', "idle is not shorter than lifetime"),
        ("streams = 64", "streams = 0", "must be at least 1"),
        ('count = "1GiB"', 'count = "1GB"', "must be a size such as"),
        ('count = "1GiB"', 'count = "0B"', "must be a size such as"),
        ('per = "1h"', 'per = "2d"', "must be from 1s to 1d"),
        ("session-quota = { streams = 8 }", "session-quota = {}", "limits nothing"),
        # Rules
        ('services = ["wiki"]\nhttp', 'services = ["wiki", "db"]\nhttp', 'service "db" speaks tcp, not http'),
        ('services = ["crm"]\nmcp', 'services = ["wiki"]\nmcp', 'service "wiki" speaks http, not mcp'),
        ("limit = { max = 100 }", "limit = {}", "asks for nothing"),
        ("limit = { max = 100 }", "limit = { max = 100, absent = true }", "present and absent stand alone"),
        ("limit = { max = 100 }", 'limit = { max = 100, equals = "1" }', "equals stands alone"),
        ("limit = { max = 100 }", "limit = { max = 100, min = 101 }", "min is above max"),
        ("limit = { max = 100 }", "limit = { max = nan }", "must be a number"),
        ("limit = { max = 100 }", "limit = { max = true }", "must be a number"),
        ("limit = { max = 100 }", "limit = { equals = 5 }", "must be a string"),
        ("limit = { max = 100 }", "limit = { in = [] }", "an empty list matches nothing"),
        ("limit = { max = 100 }", "limit = { present = false }", "can only be true"),
        ('equals = "me"', "equals = inf", "must be text"),
        ('equals = "me"', "equals = [1]", "must be text"),
        ('"$.amount"', '"amount"', "is no path"),
        ('{ resources = ["docs://**"] }', '{ resources = ["docs://../**"] }', "is no URI"),
        ('{ resources = ["docs://**"] }', '{ resources = ["docs://**"], prompts = ["x"] }', "names no one kind"),
        ('{ resources = ["docs://**"] }', '{ resources = ["docs://**"], arguments = { "$.x" = { min = 1 } } }', "have no arguments"),
        ('{ resources = ["docs://**"] }', "{}", "names no one kind"),
        ("mcp = [{", "mcp = []\n# [{", "an empty list matches nothing"),
        # Escalations
        ('from = "retrieval"', 'from = "action"', "leads from a segment to itself"),
        ('max-ttl = "15m"', 'max-ttl = "15s"', "must be from 1m to 1d"),
        ('approvers = ["role:approver"]', "approvers = []", "nobody may approve it"),
        ('approvers = ["role:approver"]', 'approvers = ["alice"]', 'must be "role:approver" or'),
        ("approvals = 1", "approvals = 6", "must be at most 5"),
        ('"Mon-Fri 08:00-18:00"', '"Mon-Fri 8-18"', "is not of the form"),
        ('"Mon-Fri 08:00-18:00"', '"Mon-Fri 18:00-08:00"', "does not end after it begins"),
        ('"Mon-Fri 08:00-18:00"', '"Mon-Fri 18:00-24:30"', "does not end after it begins"),
        ('"Europe/Berlin"', '"../etc/passwd"', "is not a time zone"),
        ('id = "up"', 'id = "read"', "is the id of several rules"),
        # Pins, tests, the file
        ('service = "crm"\ntool = "get_a"', 'service = "wiki"\ntool = "get_a"', "speaks http, and has no tools"),
        ('digest = "0', 'digest = "x', "is not a SHA-256"),
        ('request = { method = "DELETE", path = "/api/x"', 'request = { path = "/api/x"', "is no one request"),
        ('{ tool = "get_a"', '{ tool = "get_a", resource = "docs://x"', "is no one request"),
        ('{ tool = "get_a", arguments', '{ resource = "docs://a", arguments', "do not belong together"),
        ('{ tool = "get_a", arguments = { amount = 5 } }', '{ method = "GET", path = "/" }', "is http, and the service speaks mcp"),
        ('query = { a = ["1", "2"], b = "3" }', "query = 5", "must be a table"),
        ('requires = ["http", "mcp"]', 'requires = ["htpp"]', 'did you mean "http"?'),
        ('requires = ["http", "mcp"]', "requires = [5]", "must be the name of a feature"),
        ("apply-approvals = 2", "apply-approvals = 3", "must be at most 2"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(old: str, new: str, fault: str) -> None:
    """With the words for it, at its place."""
    assert old in WHOLE
    with pytest.raises(ConfigError) as caught:
        whole_policy_of(WHOLE.replace(old, new, 1))
    assert any(fault in str(said) for said in caught.value.faults), caught.value.faults


def test_an_escalation_without_approvals_has_conditions() -> None:
    """Else it would be a grant that whoever wants can have."""
    text = WHOLE.replace("approvals = 1", "approvals = 0")
    when = text[text.index("when = ") : text.index("\n", text.index("when = "))]
    whole_policy_of(text)
    with pytest.raises(ConfigError, match="0 approvals and no conditions"):
        whole_policy_of(text.replace(when, "when = { require-reason = true }"))


def test_two_pins_cannot_be_of_one_tool() -> None:
    """Nobody could say which counts."""
    pin = WHOLE[WHOLE.index("[[pins]]") : WHOLE.index("[[tests]]")]
    with pytest.raises(ConfigError, match="has several pins"):
        whole_policy_of(WHOLE + pin)


def test_what_nothing_enforces_yet_is_refused_by_name() -> None:
    """A feature that is not in ENFORCED is a fault wherever it is used, and nothing else is."""
    with pytest.raises(ConfigError) as caught:
        load_policy(WHOLE.encode(), "p", enforced=frozenset())
    said = [str(fault) for fault in caught.value.faults]
    assert [one.split(" ")[1].rstrip(":") for one in said] == [
        "apply-approvals",
        "segments.retrieval.slo",
        "segments.retrieval.mode",
        "services.wiki.protocol",
        "services.wiki.inject.header",
        "services.wiki.inject.credential",
        "services.wiki.inject.prefix",
        "services.forum.protocol",
        "services.crm.protocol",
        "agents.researcher.session",
        "agents.researcher.quota",
        "agents.researcher.session-quota",
        "bindings[0].callers",
        "grants[0].http",
        "grants[1].mcp",
        "denies[0].http",
        "escalations",
        "invalidations",
        "pins",
    ]
    assert all("not enforced" in one or "this version cannot" in one for one in said)


def test_a_rule_may_be_about_both_protocols() -> None:
    """Each service is judged by the patterns of what it speaks."""
    text = WHOLE.replace(
        'services = ["crm"]\nmcp',
        'services = ["crm", "wiki"]\nhttp = [{ methods = ["GET"], path = "/" }]\nmcp',
    )
    rule = whole_policy_of(text).grants.rules[1]
    assert (len(rule.http), len(rule.mcp)) == (1, 3)


def test_hours_may_go_round_the_week() -> None:
    """Saturday to Monday are three days; a day alone is one."""
    assert hours_of("Sat-Mon 08:00-24:00", "UTC").days == {5, 6, 0}
    assert hours_of("Wed 00:00-00:01", "UTC") == Hours(frozenset({2}), 0, 1, "UTC")
