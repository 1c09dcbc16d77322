"""Who may do what: every cell of the table in docs/operators.md, tried on a real CA and real nodes."""

import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pki.ids import new_id
from sidecar.exits import Exit
from tests.mesh import Mesh, dev_mesh
from tests.sidecar.cli.world import Done, lockgate

PAGE = Path(__file__).parents[1] / "docs/operators.md"
ADMIN = "role-admin"
"""Holds the role admin and no other."""


def table() -> tuple[list[str], dict[str, list[str]]]:
    """The columns of the table in the page, and its rows by their first cell."""
    rows = re.findall(r"^\|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    head, _, *body = ([cell.strip() for cell in row.split("|")] for row in rows)
    return head[1:], {verb: cells for verb, *cells in body}


ROLES, ROWS = table()


@dataclass(frozen=True)
class Court:
    """A mesh with an operator for each role, ``role-R``; and for each role beside responder, ``both-R``.

    Commands run in this process: a hundred times the start of an interpreter is a long time.
    """

    mesh: Mesh
    ids: Iterator[int] = field(default_factory=count)

    def run(self, operator: str, *words: object, member: str = "agents-1") -> Done:
        folder = self.mesh.root / "operators" / operator
        return lockgate("--dir", self.mesh.member(member), "--operator", folder, *words)

    def new_operator(self, name: str, *roles: str, folder: str = "") -> None:
        token = self.mesh.root / f"token-{folder or name}"
        options = [word for role in roles for word in ("--role", role)]
        created = lockgate(
            *(
                "--dir",
                self.mesh.member("ca"),
                "token",
                "create",
                f"operator:{name}",
                *options,
                "--out",
                token,
            )
        )
        assert created.code == Exit.YES, created.err
        joined = self.run(folder or name, "join", "--no-passphrase", "--token-file", token)
        assert joined.code == Exit.YES, joined.err

    def status(self) -> dict[str, Any]:
        return self.run("alice", "status", "--json").json

    def in_force(self, what: str) -> set[str]:
        return {one["target"] for one in self.status()[what]}

    def lock(self, by: str, target: str) -> str:
        """A lock that is in force everywhere; its id."""
        done = self.run(by, "lock", target, "--json")
        assert done.code == Exit.YES, done
        return str(done.json["id"])

    def fresh(self) -> str:
        """An id that nothing had so far."""
        return new_id(next(self.ids).to_bytes(16))


@pytest.fixture(scope="module")
def court(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Court]:
    with dev_mesh(tmp_path_factory.mktemp("roles") / "D") as mesh:
        court = Court(mesh)
        for role in ROLES:
            if role != "none":
                court.new_operator(f"role-{role}", role)
                court.new_operator(f"both-{role}", role, "responder")
        # A valid certificate, and a key that the roster named until another one came for that name.
        for folder in ("none", "successor"):
            court.new_operator("former", "admin", "responder", folder=f"role-{folder}")
        (mesh.root / "operators/both-none").symlink_to("role-none")
        yield court


def policy_apply(court: Court, role: str) -> Done:
    before = court.status()["policy"]["sequence"]
    done = court.run(f"role-{role}", "policy", "apply", "--yes", court.mesh.root / "policy.toml")
    assert (court.status()["policy"]["sequence"] > before) == (done.code == Exit.YES)
    return done


def policy_rollback(court: Court, role: str) -> Done:
    before = court.status()["policy"]["sequence"]
    done = court.run(f"role-{role}", "policy", "rollback", "--yes", "1")
    assert (court.status()["policy"]["sequence"] > before) == (done.code == Exit.YES)
    return done


def policy_read(court: Court, role: str) -> Done:
    listed = court.run(f"role-{role}", "policy", "ls")
    return listed if listed.code else court.run(f"role-{role}", "policy", "show", "--version", "1")


def lock(court: Court, role: str) -> Done:
    return stop(court, role, "lock", f"session:{court.fresh()}")


def lock_admin(court: Court, role: str) -> Done:
    return stop(court, role, "lock", f"operator:{ADMIN}")


def revoke(court: Court, role: str) -> Done:
    return stop(court, role, "revoke", f"session:{court.fresh()}")


def revoke_admin(court: Court, role: str) -> Done:
    return stop(court, role, "revoke", f"operator:{ADMIN}")


def unrevoke(court: Court, role: str) -> Done:
    """Of a name that nobody has: it is free again, with a cutoff."""
    return free(court, role, f"node:spare-{next(court.ids)}")


def unrevoke_mistake(court: Court, role: str) -> Done:
    return free(court, role, f"session:{court.fresh()}", "--mistake")


def free(court: Court, role: str, target: str, *options: str) -> Done:
    """It is revoked no more if, and only if, the command says so."""
    revoked = court.run("bob", "revoke", target, "--json")
    assert revoked.code == Exit.YES, revoked
    done = court.run(f"role-{role}", "unrevoke", revoked.json["id"], *options)
    whole = {one["id"] for one in court.status()["revocations"] if "before" not in one}
    assert (revoked.json["id"] not in whole) == (done.code == Exit.YES)
    return done


def stop(court: Court, role: str, verb: str, target: str) -> Done:
    """It is in force if, and only if, the command says so."""
    done = court.run(f"role-{role}", verb, target)
    listed = court.in_force({"lock": "locks", "revoke": "revocations"}[verb])
    assert (target in listed) == (done.code == Exit.YES)
    return done


def unlock(court: Court, role: str) -> Done:
    return lift(court, f"role-{role}", court.lock("bob", f"session:{court.fresh()}"))


def unlock_anothers_all(court: Court, role: str) -> Done:
    return lift(court, f"role-{role}", court.lock("bob", "all"))


def unlock_own_all(court: Court, role: str) -> Done:
    """With the role responder beside, since without it nobody has one; who is in no roster has somebody else's."""
    who = f"both-{role}"
    return lift(court, who, court.lock("bob" if role == "none" else who, "all"))


def lift(court: Court, who: str, lock_id: str) -> Done:
    done = court.run(who, "unlock", lock_id)
    held = {one["id"] for one in court.status()["locks"]}
    assert (lock_id in held) == (done.code != Exit.YES)
    if lock_id in held:
        assert court.run("alice", "unlock", lock_id).code == Exit.YES
    return done


def operator_renew(court: Court, role: str) -> Done:
    return court.run(f"role-{role}", "operator", "renew")


def token_create(court: Court, role: str) -> Done:
    return court.run(f"role-{role}", "token", "create", "node:tools-9", member="ca")


def status(court: Court, role: str) -> Done:
    return court.run(f"role-{role}", "status")


def audit(court: Court, role: str) -> Done:
    verified = court.run(f"role-{role}", "audit", "verify")
    return verified if verified.code else court.run(f"role-{role}", "audit", "tail")


TRIALS: dict[str, Callable[[Court, str], Done]] = {
    "`policy apply`": policy_apply,
    "`policy rollback`": policy_rollback,
    "`policy ls`, `policy show --version`": policy_read,
    "`lock`": lock,
    "`lock` of an admin": lock_admin,
    "`unlock`": unlock,
    "`unlock` of another's `lock all`": unlock_anothers_all,
    "`unlock` of one's own `lock all`": unlock_own_all,
    "`revoke`": revoke,
    "`revoke` of an admin": revoke_admin,
    "`unrevoke`": unrevoke,
    "`unrevoke --mistake`": unrevoke_mistake,
    "`operator renew`": operator_renew,
    "`token create`": token_create,
    "`status`": status,
    "`audit tail`, `audit verify`": audit,
}


def test_every_row_of_the_page_is_tried() -> None:
    """And every trial has its row."""
    assert ROWS.keys() == TRIALS.keys()
    assert ROLES == ["admin", "approver", "responder", "auditor", "none"]
    assert {cell for cells in ROWS.values() for cell in cells} == {"yes", "no", "here"}


@pytest.mark.parametrize(
    ("verb", "role", "cell"),
    [(verb, role, cell) for verb, cells in ROWS.items() for role, cell in zip(ROLES, cells, strict=True)],
)
def test_a_role_may_what_the_page_says(court: Court, verb: str, role: str, cell: str) -> None:
    """Where it says no, the command is refused with one line, and nothing has changed."""
    done = TRIALS[verb](court, role)
    assert done.code == (Exit.NO if cell == "no" else Exit.YES), done
    if cell == "no":
        assert re.fullmatch(r"lockgate: .+\n", done.err), done


def test_what_asks_for_no_role_asks_for_the_socket(court: Court) -> None:
    """Nobody but its owner and its group may talk to a daemon."""
    for member in ("ca", "agents-1", "tools-1"):
        socket = court.mesh.member(member) / "run" / "admin.sock"
        assert stat.S_IMODE(socket.stat().st_mode) == 0o660
