"""The wall clock of one machine jumps an hour, forth or back, under real daemons; every other clock goes on.

libfaketime stands between a daemon and CLOCK_REALTIME, and reads how far off it is from a file that the tests
replace. CLOCK_MONOTONIC and CLOCK_BOOTTIME stay true, as they do on a real machine.
"""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.clients import ask, connect
from tests.mesh import Mesh, curl, dev_mesh, until

[*FOUND] = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
pytestmark = pytest.mark.skipif(not FOUND, reason="needs libfaketime (Debian: faketime)")

MEMBERS = ("ca", "tools-1", "agents-1")
JUMPS = {"ahead": "+3600", "behind": "-3600"}
STALE_SECONDS = 5
SESSION_LIFE = "8h"
"""Longer than a jump: a session that ends in it is refused as expired, which hides what else refuses."""
LOCK_TTL = "30m"
"""Shorter than a jump: by the clock that jumps ahead it is over."""
SHORT_LIFE = "4s"


class Jumping(Mesh):
    """A mesh whose members each have a wall clock of their own."""

    @property
    def echo(self) -> int:
        return int(self.env["ECHO"].rpartition(":")[2])

    def reason(self) -> str:
        """Why the wiki refuses."""
        return str(json.loads(curl(f"{self.env['WIKI']}/api/pages").stdout)["reason"])

    def restart_under_its_clock(self, member: str) -> None:
        self.kill(member)
        self.set_clock(member, "+0")
        preload = {"LD_PRELOAD": str(FOUND[0]), "FAKETIME_TIMESTAMP_FILE": str(self._clock_of(member))}
        fake = {"FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
        self.start(member, preload | fake)

    def set_clock(self, member: str, offset: str) -> None:
        """Whole at once: the daemon may read it at any moment."""
        draft = self._clock_of(member).with_suffix(".draft")
        draft.write_text(f"{offset}\n")
        draft.replace(self._clock_of(member))

    @contextmanager
    def jumped(self, member: str, jump: str) -> Iterator[None]:
        self.set_clock(member, JUMPS[jump])
        try:
            yield
        finally:
            self.set_clock(member, "+0")

    def lifetimes(self, session: str) -> None:
        """What the CA issues from its next start on."""
        ca_toml = self.member("ca") / "etc" / "ca.toml"
        kept = ca_toml.read_text().partition("\n[lifetimes]")[0]
        ca_toml.write_text(f'{kept}\n[lifetimes]\nsession = "{session}"\n')

    def apply_short_staleness(self) -> None:
        policy = (self.root / "policy.toml").read_text()
        head = "[segments.retrieval]"
        assert head in policy
        path = self.root / "short.toml"
        path.write_text(policy.replace(head, f'{head}\nstale-after = "{STALE_SECONDS}s"\n'))
        assert self.cli("policy", "apply", "--yes", str(path), operator="alice").code == 0

    def start_session(self) -> str:
        done = self.cli("session", "start", "--agent", "researcher", "--json")
        assert done.code == 0, done
        return str(done.json["session"])

    def opens(self) -> bool:
        return _echoes(self.echo)

    def locks(self, member: str) -> set[str]:
        return {one["id"] for one in self.status(member)["locks"]}

    def refusals(self, member: str) -> list[str]:
        """Why this member itself refused, oldest first."""
        return [str(one["reason"]) for one in self.records(member, kind="denied")]

    def _clock_of(self, member: str) -> Path:
        return self.root / f"{member}.clock"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jumping]:
    """A mesh with a session and a short staleness."""
    with dev_mesh(tmp_path_factory.mktemp("clocks") / "D") as plain:
        mesh = Jumping(plain.root, plain.process, plain.env, plain.started)
        mesh.lifetimes(SESSION_LIFE)
        for member in MEMBERS:
            mesh.restart_under_its_clock(member)
        for member in MEMBERS:
            mesh.ready(member)
        mesh.apply_short_staleness()
        mesh.start_session()
        yield mesh


@pytest.fixture
def locked(mesh: Jumping) -> Iterator[str]:
    """The id of a lock on the wiki that ends within the jump, and is lifted after it."""
    done = mesh.cli("lock", "service:wiki", "--ttl", LOCK_TTL, "--json", operator="alice")
    assert done.code == 0, done
    name = str(done.json["id"])
    yield name
    until(lambda: mesh.cli("unlock", name, operator="bob").code == 0, "the lock to be lifted")


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("member", MEMBERS)
def test_new_streams_are_refused_until_the_clocks_agree_and_no_restriction_ends_early(
    mesh: Jumping, locked: str, member: str, jump: str
) -> None:
    """On whichever machine: live streams go on, new ones are stale, the lock holds everywhere, and all heals."""
    until(mesh.opens, "a stream before the jump")
    refusing = "tools-1" if member == "tools-1" else "agents-1"  # The agent's node is asked first.
    before = mesh.refusals(refusing).count("stale")
    with connect(mesh.echo) as live:
        assert ask(live, b"before") == b"before"
        with mesh.jumped(member, jump):

            def refuses() -> bool:
                return not mesh.opens() and mesh.refusals(refusing).count("stale") > before

            until(refuses, "new streams to be refused")
            assert ask(live, b"meanwhile") == b"meanwhile"
            assert mesh.reason() == "locked"
            assert mesh.locks("agents-1") == mesh.locks("tools-1") == {locked}
        until(mesh.opens, "new streams once the clock is right again")
        assert ask(live, b"afterwards") == b"afterwards"
    assert mesh.reason() == "locked"
    assert all(locked in mesh.locks(one) for one in MEMBERS)


@pytest.mark.parametrize("jump", JUMPS)
def test_a_ca_in_doubt_about_the_time_certifies_nobody_and_says_so(mesh: Jumping, jump: str) -> None:
    """It would sign certificates that have ended, or have not begun."""
    with mesh.jumped("ca", jump):
        status = until(lambda: (found := mesh.status("ca"))["clock"] and found, "the CA to notice")
        assert not status["ready"]
        assert "CLOCK" in mesh.cli("status", member="ca").out
        assert mesh.cli("session", "start", "--agent", "researcher").code != 0
    mesh.ready("ca")


def test_a_token_that_has_expired_stays_so_when_the_ca_s_clock_goes_back(mesh: Jumping) -> None:
    """Whoever finds an old token, and can set the CA's clock, still does not come in."""
    token = mesh.root / "old-token"
    words = ("operator:mallory", "--role", "admin", "--ttl", "1s", "--out", str(token))
    made = mesh.cli("token", "create", *words, member="ca")
    assert made.code == 0, made

    def join() -> str:
        done = mesh.cli("join", "--no-passphrase", "--token-file", str(token), operator="mallory")
        assert done.code != 0, done
        return done.err

    ends = time.time() + 1
    until(lambda: time.time() > ends, "the token to expire")
    assert "expired" in join()
    with mesh.jumped("ca", "behind"):
        assert "the CA cannot do this now" in join()


def test_a_session_that_has_expired_stays_so_when_its_node_s_clock_goes_back(mesh: Jumping) -> None:
    """Its certificate is valid by the wall clock again; the floor knows better."""
    over = {"expired", "no_session"}  # Known still, or tidied away already.
    mesh.lifetimes(SHORT_LIFE)
    mesh.restart_under_its_clock("ca")
    mesh.ready("ca")
    for session in mesh.cli("session", "ls", "--json").json["sessions"]:
        mesh.cli("session", "end", session["session"])
    mesh.start_session()
    until(mesh.opens, "the new session to pass")
    mesh.kill("ca")
    until(lambda: not mesh.opens(), "the session to expire")
    until(lambda: not mesh.opens() and mesh.refusals("agents-1")[-1] in over, "the refusal on record")
    with mesh.jumped("agents-1", "behind"):
        before = len(mesh.refusals("agents-1"))
        assert not mesh.opens()
        until(lambda: len(mesh.refusals("agents-1")) > before, "the refusal on record")
        assert set(mesh.refusals("agents-1")[before:]) <= over
    mesh.restart_under_its_clock("ca")
    mesh.ready("ca")


@pytest.mark.parametrize("member", MEMBERS)
def test_the_log_of_a_machine_whose_clock_jumped_verifies(mesh: Jumping, member: str) -> None:
    """Times in it may go back; its order does not rest on them."""
    verified = mesh.cli("audit", "verify", member=member)
    assert verified.code == 0, verified


def _echoes(port: int) -> bool:
    try:
        with connect(port) as stream:
            return _answers(stream)
    except ConnectionError:
        return False


def _answers(stream: socket.socket) -> bool:
    return ask(stream, b"hello") == b"hello"
