from typing import Any

import pytest

from pki.errors import ConfigError, Fault, LocalError
from sidecar.cli.node import serve
from sidecar.exits import Exit
from tests.sidecar.cli.world import FakeDaemon

AT = 1_900_000_000_000_000
ID = "a" * 26

CA: dict[str, Any] = {
    "role": "ca",
    "name": "main",
    "id": "spiffe://example.org/ca/main",
    "dev": False,
    "ready": True,
    "unready": "",
    "pid": 7,
    "peers": ["spiffe://example.org/node/tools-1"],
    "wall": AT,
    "floor": AT,
    "policy": {"sequence": 3, "digest": "ab" * 32, "fault": ""},
    "nodes": ["agents-1", "tools-1"],
    "operators": {"alice": ["admin"]},
    "refused": {},
    "statements": 9,
    "declined": 0,
    "locks": [{"id": ID, "target": "all", "until": AT, "by": "alice", "message": "fire\x1b[2J"}],
    "revocations": [{"id": ID, "target": "node:tools-9", "by": "bob"}],
}

ENFORCED: dict[str, Any] = {"mode": "enforce", "would_deny": {}, "slo": None}
BURNS = {
    "p99": 20_000,
    "objective": 99.9,
    "total": 90,
    "missed": 30,
    "budget": -3.2,
    "burn": 333.3,
    "fast": True,
}

NODE: dict[str, Any] = CA | {
    "role": "node",
    "name": "agents-1",
    "id": "spiffe://example.org/node/agents-1",
    "not_after": AT,
    "segments": {
        "retrieval": {"fresh": True, "until": AT, **ENFORCED},
        "action": {"fresh": False, "until": None, **ENFORCED},
    },
    "bindings": [
        {
            "agent": "researcher",
            "service": "wiki",
            "port": 15001,
            "address": "127.0.0.1:15001",
            "problem": "",
        },
        {
            "agent": "researcher",
            "service": "vault",
            "port": 15002,
            "address": "127.0.0.1:15002",
            "problem": "port taken",
        },
    ],
    "streams": 2,
    "sessions": 1,
    "audit": {"available": True, "lost": 0, "trouble": "", "broken": ""},
}


def status(daemon: FakeDaemon, answer: dict[str, Any], **changes: object) -> str:
    daemon.says("GET /v1/status", **(answer | changes))
    return daemon.run("status").out


def test_a_nodes_status_says_all_that_an_admin_looks_for(daemon: FakeDaemon) -> None:
    """A line each, and what needs a look in capitals."""
    assert status(daemon, NODE).splitlines() == [
        "node agents-1: ready",
        "  identity   spiffe://example.org/node/agents-1 until 2030-03-17 17:46:40 UTC",
        "  roster     nodes agents-1, tools-1; operators alice",
        "  linked to  spiffe://example.org/node/tools-1",
        "  policy     sequence 3 abababababab",
        "  segment    retrieval: fresh until 2030-03-17 17:46:40 UTC",
        "  segment    action: STALE, refuses",
        "  binding    researcher -> wiki on 127.0.0.1:15001: listens",
        "  binding    researcher -> vault on 127.0.0.1:15002: DOWN, port taken",
        f"  LOCK       all by alice until 2030-03-17 17:46:40 UTC ({ID}): fire [2J",
        f"  REVOKED    node:tools-9 by bob ({ID})",
        "  streams    2 live, 1 sessions",
        "  audit      written",
    ]


def test_a_cas_status_leaves_out_what_only_nodes_have(daemon: FakeDaemon) -> None:
    """It carries no streams, and its certificate is no leaf of an hour."""
    assert status(daemon, CA, locks=[], revocations=[]).splitlines() == [
        "ca main: ready",
        "  identity   spiffe://example.org/ca/main",
        "  roster     nodes agents-1, tools-1; operators alice",
        "  linked to  spiffe://example.org/node/tools-1",
        "  policy     sequence 3 abababababab",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"dev": True}, "node agents-1: ready (dev: loopback only, not for production)"),
        ({"ready": False}, "node agents-1: NOT READY"),
        ({"peers": []}, "  linked to  none"),
        (
            {"policy": {"sequence": 0, "digest": "0" * 64, "fault": ""}},
            "  policy     none: everything is refused",
        ),
        (
            {"policy": {"sequence": 3, "digest": "ab" * 32, "fault": "policy 4: bad"}},
            "  POLICY     policy 4: bad; the old one stays",
        ),
        (
            {"canary": {"sequence": 4, "digest": "cd" * 32, "nodes": ["tools-1", "tools-2"]}},
            "  canary     sequence 4 on tools-1, tools-2",
        ),
        ({"unready": "disk full"}, "  UNREADY    disk full"),
        ({"refused": {"protocol": 2, "handshake": 9}}, "  refused    handshake 9, protocol 2"),
        (
            {"audit": {"available": False, "lost": 3, "trouble": "disk full", "broken": ""}},
            "  audit      CANNOT BE WRITTEN: disk full",
        ),
        (
            {"missing_users": ["ghost"]},
            "  USER       agent ghost can run no session: this machine does not have its user",
        ),
        (
            {"orphans": {"a" * 26: 2}},
            f"  ORPHANS    session {'a' * 26}: 2 processes that a killed daemon left; they reach nothing",
        ),
        (
            {"segments": {"a": {"fresh": True, "until": AT, **ENFORCED, "mode": "observe"}}},
            "  OBSERVED   a: NOT ENFORCED; it would have refused nothing yet",
        ),
        (
            {
                "segments": {
                    "a": {
                        "fresh": True,
                        "until": AT,
                        "mode": "observe",
                        "would_deny": {"stale": 2},
                        "slo": None,
                    }
                }
            },
            "  OBSERVED   a: NOT ENFORCED; it would have refused 2 stale",
        ),
        (
            {"segments": {"a": {"fresh": True, "until": AT, **ENFORCED, "slo": BURNS}}},
            "  SLO        a: FAST BURN, 333 times what its objective allows; see lockgate slo",
        ),
    ],
)
def test_trouble_is_named(daemon: FakeDaemon, changes: dict[str, Any], line: str) -> None:
    """Whatever it is, in its own line."""
    assert line in status(daemon, NODE, **changes).splitlines()


def test_the_exit_code_is_whether_it_is_ready(daemon: FakeDaemon) -> None:
    """So a script can wait for it; the object is printed either way."""
    for ready, code in ((True, Exit.YES), (False, Exit.NO)):
        daemon.says("GET /v1/status", **(NODE | {"ready": ready}))
        done = daemon.run("status", "--json")
        assert (done.code, done.json["ready"]) == (code, ready)
        assert done.json == NODE | {"ready": ready, "schema_version": 1}


def test_without_a_daemon_status_is_unreachable(daemon: FakeDaemon) -> None:
    """One line, exit code 3."""
    daemon.paths.admin_sock.unlink()
    done = daemon.run("status")
    assert done.code == Exit.UNCONFIRMED
    assert done.err.endswith("admin.sock: No such file or directory; is the daemon running?\n")


def test_reload_says_what_waits_for_a_restart(daemon: FakeDaemon) -> None:
    """And when nothing does, that it is done."""
    daemon.says("POST /v1/reload", needs_restart=[])
    assert daemon.run("reload").out == "reloaded\n"
    daemon.says("POST /v1/reload", needs_restart=["name", "listen"])
    assert daemon.run("reload").out == "reloaded; only a restart takes up name, listen\n"


def test_a_reload_that_is_refused_is_a_no_with_its_faults(daemon: FakeDaemon) -> None:
    """Every fault, as at start."""
    daemon.refuses("POST /v1/reload", "node.toml:3 foo: unknown key\nnode.toml:4 bar: unknown key")
    done = daemon.run("reload")
    assert (done.code, len(done.err.splitlines())) == (Exit.NO, 2)


def test_bad_configuration_ends_a_daemon_with_78(capsys: pytest.CaptureFixture[str]) -> None:
    """systemd is told not to try that again; a nursery's wrapping makes no difference."""
    error = ConfigError([Fault("node.toml:1", "bad"), Fault("node.toml:2", "worse")])
    for raised in (error, ExceptionGroup("", [ExceptionGroup("", [error])])):

        def daemon(raised: Exception = raised) -> None:
            raise raised

        assert serve(daemon) == Exit.CONFIG
        assert capsys.readouterr().err == "lockgate: node.toml:1: bad\nlockgate: node.toml:2: worse\n"


def test_any_other_end_of_a_daemon_is_told_as_it_is() -> None:
    """An expected failure in its words; a bug as a bug."""
    assert serve(lambda: None) == Exit.YES
    for error in (LocalError("port taken"), RuntimeError("bug")):

        def daemon(error: Exception = error) -> None:
            raise ExceptionGroup("", [error])

        with pytest.raises(type(error), match=str(error)):
            serve(daemon)


def test_a_daemon_without_its_file_says_what_to_run(daemon: FakeDaemon) -> None:
    """`lockgate run` and `lockgate ca serve` alike."""
    done = daemon.run("run")
    assert (done.code, done.err.endswith("run: lockgate join\n")) == (Exit.NO, True)
    done = daemon.run("ca", "serve")
    assert (done.code, done.err.endswith("run: lockgate ca init\n")) == (Exit.NO, True)


def test_a_daemon_with_a_bad_file_names_every_fault(daemon: FakeDaemon) -> None:
    """Each with its line."""
    daemon.paths.etc.mkdir()
    daemon.paths.node_toml.write_text('name = "Bad Name"\nfoo = 1\n')
    done = daemon.run("run")
    assert done.code == Exit.CONFIG
    assert {line.split()[1].rpartition("/")[2] for line in done.err.splitlines()} >= {
        "node.toml:1",
        "node.toml:2",
    }


@pytest.mark.parametrize(("fast", "code"), [(True, Exit.NO), (False, Exit.YES)])
def test_slo_says_what_is_left_of_the_budget(daemon: FakeDaemon, fast: bool, code: Exit) -> None:
    """Exit code 1 while one burns fast; segments without an objective are left out."""
    burns = {"fresh": True, "until": AT, **ENFORCED, "slo": {**BURNS, "fast": fast}}
    daemon.says("GET /v1/status", **(NODE | {"segments": {"a": burns, "b": {**burns, "slo": None}}}))
    done = daemon.run("slo")
    assert done.code == code
    assert done.out.strip() == (
        "a: 99.9 % within 20 ms; 30 of 90 missed it today, budget left -320 %, burn rate 333.3"
        + (" FAST" if fast else "")
    )
