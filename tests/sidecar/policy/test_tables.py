from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import SECOND
from pki.errors import ConfigError
from sidecar.address import Address
from sidecar.policy.model import Callers
from sidecar.policy.tables.defined import Defined
from sidecar.policy.tables.policy import PolicyTables
from sidecar.policy.tables.presets import PRESETS
from sidecar.policy.target import TcpTarget, TlsTarget, UnixTarget
from sidecar.toml import Document
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
