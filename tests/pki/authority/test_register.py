import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from pki.authority.bans import Cutoff
from pki.authority.entries import Invitation, Issuance, PolicyVersion, Proposal
from pki.authority.register import Register
from pki.clock import Wall
from pki.errors import LocalError
from pki.ids import new_id
from pki.spiffe import IdKind, SpiffeId
from pki.statement import Target

NODE = SpiffeId.for_node("td", "agents-1")
OPERATOR = SpiffeId.for_operator("td", "alice")
SESSION = SpiffeId.for_agent("td", "researcher", "agents-1", new_id(bytes(16)))
INVITATION = Invitation(IdKind.OPERATOR, "alice", ("admin", "responder"), Wall(1000))
HASH, KEY, OTHER_KEY = b"h" * 32, b"k" * 32, b"o" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "register.sqlite"
    Register.create(path)
    return path


@pytest.fixture
def register(path: Path) -> Iterator[Register]:
    with Register.open(path) as register:
        yield register


def issuance(serial: str, lineage: str) -> Issuance:
    return Issuance(serial, lineage, NODE, KEY, Wall(0), Wall(9), "token")


def test_only_the_owner_can_read_a_register(path: Path, register: Register) -> None:
    """The database and the files beside it are 0600: they hold who may come in."""
    register.next_number()
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


def test_a_register_is_never_made_over_another(path: Path) -> None:
    """Creating one where there is one is refused."""
    with pytest.raises(LocalError, match="File exists"):
        Register.create(path)


def test_a_new_token_is_spent_by_the_first_key_and_stays_with_it(register: Register) -> None:
    """The second key sees whose it is, the first one may come again."""
    register.add_token(HASH, INVITATION, Wall(1))
    first = register.spend_token(HASH, KEY, Wall(2))
    assert first is not None
    assert (first.invitation, first.spent_by, first.answer) == (INVITATION, KEY, None)
    register.keep_answer(HASH, b"answer")
    other, again = register.spend_token(HASH, OTHER_KEY, Wall(3)), register.spend_token(HASH, KEY, Wall(4))
    assert other is not None
    assert other.spent_by == KEY
    assert again is not None
    assert (again.spent_by, again.answer) == (KEY, b"answer")


def test_an_expired_token_is_not_spent(register: Register) -> None:
    """The end is exclusive: at ``expires`` it is over."""
    register.add_token(HASH, INVITATION, Wall(1))
    late = register.spend_token(HASH, KEY, INVITATION.expires)
    assert late is not None
    assert late.spent_by is None


def test_an_unknown_token_is_none(register: Register) -> None:
    """There is nothing to say about it."""
    assert register.spend_token(HASH, KEY, Wall(1)) is None


async def test_of_twenty_keys_that_race_for_a_token_one_wins(register: Register) -> None:
    """Reading and spending are one step, from however many threads."""
    register.add_token(HASH, INVITATION, Wall(1))
    seen: list[bytes | None] = []

    async def race(key: bytes) -> None:
        spending = await trio.to_thread.run_sync(register.spend_token, HASH, key, Wall(2))
        assert spending is not None
        seen.append(spending.spent_by)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(race, bytes([number]) * 32)
    assert len(seen) == 20
    assert len(set(seen)) == 1


async def test_numbers_are_given_once_whoever_asks(path: Path, register: Register) -> None:
    """Two processes (here: two open registers) and many threads never get the same number."""
    numbers: list[int] = []

    async def draw(source: Register) -> None:
        numbers.append(await trio.to_thread.run_sync(source.next_number))

    with Register.open(path) as second:
        async with trio.open_nursery() as nursery:
            for source in (register, second) * 10:
                nursery.start_soon(draw, source)
    assert sorted(numbers) == list(range(1, 21))
    assert register.last_number() == 20


def test_counters_are_apart_and_survive_a_restart(path: Path) -> None:
    """A number is on disk before it is given out, so a restart goes on behind it."""
    with Register.open(path) as register:
        assert register.last_number() == 0
        assert [register.next_number(), register.next_number()] == [1, 2]
        assert register.next_sequence("policy") == 1
    with Register.open(path) as register:
        assert register.next_number() == 3
        assert [register.next_sequence("policy"), register.next_sequence("member/node/a")] == [2, 1]


def test_a_serial_is_written_down_once(register: Register) -> None:
    """The same serial twice is a bug or a broken source of randomness, and is refused."""
    register.add_certificate(issuance("a1", "a1"))
    with pytest.raises(LocalError, match="UNIQUE"):
        register.add_certificate(issuance("a1", "b2"))


def test_a_line_began_with_its_first_certificate(register: Register) -> None:
    """And one that is not known has no beginning."""
    register.add_certificate(issuance("a1", "a1"))
    assert (register.began("a1"), register.began("b2")) == (Wall(0), None)


def test_a_session_keeps_its_first_lineage(register: Register) -> None:
    """Asked again, by another certificate, it is still of the first line."""
    assert register.claim_session(SESSION, "a1") == "a1"
    assert register.claim_session(SESSION, "b2") == "a1"


def test_a_session_keeps_its_user(register: Register) -> None:
    """Asked again for somebody else, it is still the first one's; an unknown session is nobody's."""
    register.claim_session(SESSION, "a1", "alice")
    register.claim_session(SESSION, "b2", "bob")
    assert register.user_of(SESSION) == "alice"
    assert register.user_of(SpiffeId.for_agent("td", "other", "agents-2", new_id(bytes(16)))) == ""


def test_an_id_token_is_spent_once(register: Register) -> None:
    """It is remembered until it has expired, when nobody takes it any more."""
    assert register.spend_id_token(b"one", Wall(10), Wall(1))
    assert register.spend_id_token(b"two", Wall(20), Wall(1))
    assert not register.spend_id_token(b"one", Wall(10), Wall(9))
    assert not register.spend_id_token(b"two", Wall(20), Wall(15))


def test_a_session_id_belongs_to_one_session(register: Register) -> None:
    """A node cannot take the id of another node's session."""
    register.claim_session(SESSION, "a1")
    assert (
        register.claim_session(SpiffeId.for_agent("td", "other", "agents-2", SESSION.session), "b2") is None
    )


@pytest.mark.parametrize(
    ("target", "banned"),
    [
        pytest.param(Target(kind="node", value="agents-1"), {NODE, SESSION}, id="a node with its sessions"),
        pytest.param(Target(kind="agent", value="researcher"), {SESSION}, id="an agent"),
        pytest.param(Target(kind="session", value=SESSION.session), {SESSION}, id="a session"),
        pytest.param(Target(kind="id", value=str(SESSION)), {SESSION}, id="a session by its SPIFFE ID"),
        pytest.param(Target(kind="operator", value="alice"), {OPERATOR}, id="an operator"),
        pytest.param(Target(kind="node", value="agents"), set(), id="half a name"),
        pytest.param(Target(kind="agent", value="agents-1"), set(), id="the name of another kind"),
    ],
)
def test_a_ban_reaches_whole_names_of_its_kind(
    register: Register, target: Target, banned: set[SpiffeId]
) -> None:
    """The same reach as the revocation has in the mesh."""
    register.ban(target, "statement", Wall(1))
    assert {identity for identity in (NODE, OPERATOR, SESSION) if register.is_banned(identity)} == banned


def test_a_banned_serial_bans_its_lineage(register: Register) -> None:
    """Every certificate of the line, earlier and later ones, and no other of the same name."""
    register.add_certificate(issuance("a1", "a1"))
    register.add_certificate(issuance("a2", "a1"))
    register.ban(Target(kind="serial", value="00a2"), "statement", Wall(1))
    assert register.is_banned(NODE, "a1")
    assert not register.is_banned(NODE, "b1")
    assert not register.is_banned(NODE)


def test_a_serial_that_is_not_ours_bans_itself(register: Register) -> None:
    """A certificate may be older than the register that a recovery left us."""
    register.ban(Target(kind="serial", value="c3"), "statement", Wall(1))
    assert register.is_banned(NODE, "c3")


def test_bans_are_kept_for_good(path: Path) -> None:
    """Across a restart, however often and by whomever they were said."""
    with Register.open(path) as register:
        for statement in ("first", "second", "second"):
            register.ban(Target(kind="node", value="agents-1"), statement, Wall(1))
    with Register.open(path) as register:
        assert register.is_banned(NODE)


def test_a_missing_register_refuses_to_start(tmp_path: Path) -> None:
    """No empty one is made in its place: it would have forgotten every ban."""
    with pytest.raises(LocalError, match="missing; restore it from a backup"):
        Register.open(tmp_path / "register.sqlite")
    assert not list(tmp_path.iterdir())


def test_a_register_that_vanishes_under_way_is_not_made_anew(path: Path, register: Register) -> None:
    """The next transaction fails, it does not begin at number 1."""
    path.unlink()
    with pytest.raises(LocalError, match="unable to open"):
        register.next_number()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param(b"", "not a register", id="empty"),
        pytest.param(b"SQLite format 3\0" + b"\xff" * 4096, "not a database|malformed", id="damaged head"),
        pytest.param(b"hello", "not a database", id="another file"),
    ],
)
def test_a_damaged_register_refuses_to_start(path: Path, content: bytes, why: str) -> None:
    """What cannot be read is named, with the file."""
    path.write_bytes(content)
    with pytest.raises(LocalError, match=f"register {path}: .*({why})"):
        Register.open(path)


def test_a_register_with_a_damaged_page_refuses_to_start(path: Path) -> None:
    """quick_check looks at all pages at the start, not at the first query that meets the bad one."""
    with Register.open(path) as register:
        for number in range(200):
            register.add_token(bytes([number]) * 32, INVITATION, Wall(1))
    data = bytearray(path.read_bytes())
    data[-8192:] = b"\xff" * 8192
    path.write_bytes(data)
    with pytest.raises(LocalError, match=r"damaged|malformed"):
        Register.open(path)


def test_a_newer_register_is_refused(path: Path) -> None:
    """An older program would not know what the newer one promised."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(LocalError, match="newer lockgate"):
        Register.open(path)


def test_a_lifted_ban_leaves_a_cutoff_unless_it_was_a_mistake(register: Register) -> None:
    """Lifted with a cutoff: by name free, as issued before it not. As a mistake: free, and the cutoff with it."""
    register.ban(Target(kind="node", value="agents-1"), "r", Wall(1))
    register.lift_bans(["r", "unknown"], 10, Wall(2))
    assert not register.is_banned(NODE)
    assert not register.is_banned(SESSION, issued=10)
    assert register.is_banned(NODE, issued=9)
    assert register.is_banned(SESSION, issued=9)
    assert not register.is_banned(OPERATOR, issued=9)
    register.lift_bans(["r"], 0, Wall(3))
    assert not register.is_banned(NODE, issued=9)


def test_a_ban_that_was_lifted_does_not_come_back_by_its_own_statement(register: Register) -> None:
    """The CA enters all revocations that it holds again at each start."""
    for _ in range(2):
        register.ban(Target(kind="node", value="agents-1"), "r", Wall(1))
        register.lift_bans(["r"], 0, Wall(2))
    register.ban(Target(kind="node", value="agents-1"), "r", Wall(3))
    assert not register.is_banned(NODE)
    register.ban(Target(kind="node", value="agents-1"), "another", Wall(3))
    assert register.is_banned(NODE)


def test_a_cutoff_hits_all_that_its_target_means(register: Register) -> None:
    """As a ban does, for what was issued before it."""
    register.cut_off(Cutoff("c", Target(kind="agent", value=SESSION.name), 10))
    assert register.is_banned(SESSION, issued=9)
    assert not register.is_banned(SESSION, issued=10)
    assert not register.is_banned(SESSION)


# Policies


def test_policies_are_kept_newest_first_and_once(register: Register) -> None:
    """Written down again after a crash, a version is still one row."""
    versions = [PolicyVersion(n, f"{n}" * 64, "alice", "", (), Wall(n)) for n in (1, 2)]
    canary = PolicyVersion(3, "3" * 64, "alice", "bob", ("tools-1", "tools-2"), Wall(3))
    for version in (*versions, canary, versions[0]):
        register.keep_policy(version)
    assert register.policies() == [canary, versions[1], versions[0]]


def test_a_proposal_is_there_until_it_expires_is_dropped_or_made_anew(register: Register) -> None:
    """One for each text, the oldest first."""
    first = Proposal("1" * 64, "0" * 64, "alice", "{}", Wall(1), Wall(10))
    second = Proposal("2" * 64, "0" * 64, "ada", "{}", Wall(2), Wall(20))
    register.propose(second)
    register.propose(first)
    assert register.proposals(Wall(9)) == [first, second]
    assert register.proposals(Wall(10)) == [second]
    anew = Proposal(second.digest, second.base, "alice", '{"canary": []}', Wall(11), Wall(30))
    register.propose(anew)
    assert register.proposals(Wall(11)) == [anew]
    register.drop_proposal(anew.digest)
    register.drop_proposal("3" * 64)
    assert register.proposals(Wall(11)) == []
