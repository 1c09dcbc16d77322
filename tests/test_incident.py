"""An incident, told from the logs alone by somebody who was not there: what was printed equals what was done."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sidecar.session.cgroup import SessionCgroups
from tests.mesh import LOCKGATE, Mesh, dev_mesh, is_root, lockgate, until

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="takes several sessions of one user, so cgroups, so root"),
    pytest.mark.skipif(SessionCgroups.of_machine().mount is None, reason="no cgroup v2"),
]

MEMBERS = ("agents-1", "tools-1", "tools-2", "ca")
SESSIONS = 5

AGENT = """
import json, os, sys, urllib.error, urllib.request

base = "http://" + os.environ["LOCKGATE_WIKI_ADDR"]
print(os.environ["LOCKGATE_SESSION"], flush=True)
for line in sys.stdin:
    method, path = line.split()
    try:
        with urllib.request.urlopen(urllib.request.Request(base + path, method=method)) as answer:
            print(answer.status, flush=True)
    except urllib.error.HTTPError as error:
        print(json.loads(error.read())["reason"], flush=True)
    except OSError:
        print("nothing", flush=True)
"""
"""Does what it is told, and says what came of it: a status, a reason, or nothing."""


@dataclass
class Run:
    """A session as the test had it: what it asked for, and what came of each."""

    process: "subprocess.Popen[str]"
    session: str
    came: Counter[tuple[str, str]] = field(default_factory=Counter)

    def does(self, method: str, path: str, times: int = 1) -> str:
        said = ""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        for _ in range(times):
            self.process.stdin.write(f"{method} {path}\n")
            self.process.stdin.flush()
            said = self.process.stdout.readline().strip()
            self.came[method, said] += 1
        return said


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Three nodes and a CA."""
    with dev_mesh(tmp_path_factory.mktemp("incident") / "D", "--nodes", "2") as found:
        yield found


def begin(mesh: Mesh) -> Run:
    """A session of its own, by its cgroup, of which the agent program is told by its standard input."""
    command = [*LOCKGATE, "--dir", str(mesh.member("agents-1")), "session", "exec", "--agent", "researcher"]
    process = subprocess.Popen(
        [*command, "--", sys.executable, "-u", "-c", AGENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return Run(process, process.stdout.readline().strip())


def played(mesh: Mesh) -> tuple[list[Run], dict[str, str]]:
    """Two hundred actions of five sessions; in the middle a lock, and one session's key is taken for stolen."""
    runs = [begin(mesh) for _ in range(SESSIONS)]
    for run in runs:
        assert run.does("GET", "/api/pages", 20) == "200"
        assert run.does("DELETE", "/api/pages/intro", 6) == "no_grant"
    locked = mesh.cli("lock", "service:wiki", "--message", "incident 42", "--json", operator="alice")
    assert locked.code == 0, locked.err
    for run in runs[:3]:
        assert run.does("GET", "/api/pages", 3) == "locked"
    assert mesh.cli("unlock", locked.json["id"], operator="bob").code == 0
    until(lambda: runs[0].does("GET", "/api/pages") == "200", "the wiki to answer again")
    revoked = mesh.cli("revoke", f"session:{runs[4].session}", "--json", operator="alice")
    assert revoked.code == 0, revoked.err
    for run in runs[:4]:
        assert run.does("GET", "/api/pages", 15) == "200"
    assert runs[4].does("GET", "/api/pages", 2) == "revoked"
    for run in runs:
        run.process.communicate(timeout=30)
    return runs, {"lock": locked.json["id"], "revocation": revoked.json["id"]}


def told(one: dict[str, Any]) -> Counter[tuple[str, str]]:
    """The actions of a session as the story has them: method, and status or reason."""
    found: Counter[tuple[str, str]] = Counter()
    for stream in one["streams"]:
        if stream["verdict"] == "deny":
            found["stream", stream["reason"]] += stream["count"]
        for request in stream["requests"]:
            method = request["operation"].split(" ")[0]
            found[method, str(request["status"] or request["reason"])] += request["count"]
    return found


def test_the_story_that_the_logs_tell_is_what_was_done(mesh: Mesh, tmp_path: Path) -> None:
    """Each session with each of its actions, each refusal with its reason, the lock and the revocation by name."""
    runs, statements = played(mesh)
    until(
        lambda: (
            {run.session for run in runs}
            <= {one["session"] for one in mesh.records("agents-1", what="ended")}
        ),
        "all sessions to have ended on record",
    )
    mesh.copy_logs(tmp_path, MEMBERS)
    folders = [str(tmp_path / member) for member in MEMBERS]
    bundle = str(tmp_path / "bundle.statement")
    alone = ("--dir", str(tmp_path / "none"), "audit")
    judged = lockgate(*alone, "verify", "--bundle", bundle, "--redecide", "--json", *folders)
    assert judged.code == 0, judged.out
    assert judged.json["disagreements"] == judged.json["missing"] == 0
    traced = lockgate(*alone, "trace", "researcher", "--since", "1h", "--json", *folders)
    story = {one["session"]: one for one in traced.json["sessions"]}
    for run in runs[:4]:
        assert told(story[run.session]) == as_told(run.came), run.session
    stolen = runs[4]
    assert told(story[stolen.session])["GET", "200"] == stolen.came["GET", "200"]
    assert told(story[stolen.session])["stream", "revoked"] == stolen.came["GET", "revoked"] == 2
    assert sum(sum(run.came.values()) for run in runs) >= 200
    named = {one["statement"]: one for one in traced.json["statements"]}
    assert set(statements.values()) <= named.keys()
    assert all(str(named[name]["by"]).endswith("/operator/alice") for name in statements.values())
    assert {node for one in story.values() for stream in one["streams"] for node in stream["nodes"]} == {
        "agents-1", "tools-1", "tools-2",
    }  # fmt: skip
    words = lockgate(*alone, "trace", "researcher", *folders).out
    assert f"lock {statements['lock']} of service:wiki: applied by" in words


def as_told(came: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """What the agent saw in the words of the story: a lock refuses the stream, before any request is read."""
    found: Counter[tuple[str, str]] = Counter()
    for (method, said), times in came.items():
        found["stream" if said == "locked" else method, said] += times
    return found
