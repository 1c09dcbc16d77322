"""Attacks on control links: statements that nobody may have said, and abuse of the repair exchange.

A rogue member may send any envelope. What it forged is declined one by one and the link stays; what is no statement,
or no message, ends the link.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import trio

from pki import codec
from pki.asking import Lease
from pki.clock import HOUR, MINUTE, Wall
from pki.fields import Wire
from pki.statement import (
    MAX_STATEMENT_BYTES,
    Adoption,
    Applied,
    Bundle,
    Demand,
    Envelope,
    Heartbeat,
    Lift,
    Lock,
    Member,
    Node,
    Operator,
    Payload,
    Policy,
    Receipt,
    Revocation,
    Target,
    parse,
)
from sidecar import wire
from sidecar.gossip import digest
from sidecar.identity import Credential
from sidecar.overlay import Connection
from sidecar.wire import FrameType
from tests.authority import new_key, tiny_ca
from tests.hostile.rogue import GONE, NOTHING, PROTOCOL, ROGUE, STATEMENT, Case, Rogue, a_name, answer

Attack = Callable[[Rogue], Awaitable[str]]
Forger = Callable[[Rogue], bytes]

NOT_HELD = "not held"
HELD = "held"
ZERO = "0" * 64
NONSENSE = hashlib.sha256(b"nobody has this").hexdigest()


def sends(*forgers: Forger) -> Attack:
    """Envelopes in one STATEMENTS: whether the victim holds any of them afterwards, or hung up."""

    async def attack(rogue: Rogue) -> str:
        envelopes = [forge(rogue) for forge in forgers]
        async with link(rogue) as connection:
            await say(connection, wire.Statements(envelopes=envelopes))
            if not await is_done(connection):
                return GONE
        return HELD if any(rogue.holds(parse(raw).id) for raw in envelopes) else NOT_HELD

    return attack


def tells(*frames: tuple[int, bytes]) -> Attack:
    """Frames on a control link: GONE, or the first answer of a kind that gossip would not bring anyway."""

    async def attack(rogue: Rogue) -> str:
        async with link(rogue) as connection:
            await connection.frames.send_many(frames)
            return "link stays" if await is_done(connection) else GONE

    return attack


@asynccontextmanager
async def link(rogue: Rogue) -> AsyncIterator[Connection]:
    """A control link of the member that has no daemon."""
    async with rogue.connection("control", ROGUE) as connection:
        yield connection


async def say(connection: Connection, *messages: Wire) -> None:
    await connection.frames.send_many([wire.encode(message) for message in messages])


async def is_done(connection: Connection) -> bool:
    """Whether the victim took in all that was sent: messages are handled in order, and this one is answered."""
    with suppress(trio.BrokenResourceError):
        await say(connection, wire.Fetch(digest=NONSENSE, offset=0))
    while (frame := await answer(connection.frames)) is not None:
        if frame.type == FrameType.OBJECT and wire.decode(frame.type, frame.body).digest == NONSENSE:  # type: ignore[attr-defined]  # an Object
            return True
    return False


# -- what is said

LOCK_ALL = Lock(target=Target(kind="all"), message="forged")


def alice(rogue: Rogue) -> Credential:
    return rogue.alice.credential


def node(rogue: Rogue) -> Credential:
    return rogue.members[ROGUE]


def by(who: Callable[[Rogue], Credential], kind: str, body: Wire, **terms: int) -> Forger:
    return lambda rogue: rogue.said_by(who(rogue), kind, body, **terms)


def by_ca(kind: str, body: Wire, **terms: int) -> Forger:
    return lambda rogue: rogue.said_by_ca(kind, body, **terms)


def unknown_operator(rogue: Rogue) -> Credential:
    """The stolen issuing key can make operators, and no roster has them."""
    return rogue.mint(rogue.alice.credential.id.for_operator(rogue.trust_domain, "mallory"))


def alice_by_a_stolen_issuer(rogue: Rogue) -> Credential:
    """The right name under the right issuer, and not the key that the roster names."""
    return rogue.mint(rogue.alice.credential.id)


def alice_elsewhere(rogue: Rogue) -> Credential:
    mesh, key = tiny_ca(rogue.trust_domain, rogue.now()), new_key()
    return Credential(rogue.alice.credential.id, mesh.issue(rogue.alice.credential.id, key), key)


def session(rogue: Rogue) -> Credential:
    return rogue.session


def revoked_node(rogue: Rogue) -> Credential:
    return rogue.members["gone-1"]


def revocation(rogue: Rogue, who: str) -> Revocation:
    return Revocation(target=Target(kind="id", value=who))


def ends_anothers_session(rogue: Rogue) -> bytes:
    return rogue.said_by(node(rogue), "revocation", revocation(rogue, str(rogue.session.id)))


def by_a_revoked_node(rogue: Rogue) -> bytes:
    own = rogue.agent_id("gone-1")
    return rogue.said_by(revoked_node(rogue), "revocation", revocation(rogue, str(own)))


def revokes_by_bare_id(rogue: Rogue) -> bytes:
    target = Target(kind="session", value=rogue.session.id.session)
    return rogue.said_by(node(rogue), "revocation", Revocation(target=target))


def flipped(rogue: Rogue) -> bytes:
    return _rewritten(
        rogue.said_by(alice(rogue), "lock", LOCK_ALL), lambda e: {"signature": _flip(e.signature)}
    )


def another_payload(rogue: Rogue) -> bytes:
    """Alice's signature of a small lock under a large one."""
    large = codec.decode(rogue.said_by(alice(rogue), "lock", LOCK_ALL), Envelope, limit=65_536, what="x")
    small = Lock(target=Target(kind="agent", value="nobody"))
    return _rewritten(rogue.said_by(alice(rogue), "lock", small), lambda _: {"payload": large.payload})


def anothers_chain(rogue: Rogue) -> bytes:
    """Signed by the rogue node, with alice's certificates beside it."""
    raw = rogue.said_by(node(rogue), "lock", LOCK_ALL)
    return _rewritten(raw, lambda _: {"chain": list(alice(rogue).chain)})


def other_kind(rogue: Rogue) -> bytes:
    """A lock that alice signed, relabelled as a revocation of the same body."""
    lock = Lock(target=Target(kind="agent", value="researcher"))
    return _rewritten(
        rogue.said_by(alice(rogue), "lock", lock),
        lambda e: {"payload": _altered(e.payload, kind="revocation")},
    )


def padded_chain(rogue: Rogue) -> bytes:
    """Junk behind the CA's certificate would travel along under the same id."""
    raw = rogue.said_by_ca("lock", Lock(target=Target(kind="agent", value="nobody")))
    return _rewritten(raw, lambda e: {"chain": [*e.chain, b"\x30" * 4_000]})


def own_numbers(rogue: Rogue) -> bytes:
    return rogue.said_by(alice(rogue), "lock", LOCK_ALL, number=1)


def bundle(rogue: Rogue) -> Bundle:
    held = rogue.authority.bundle
    return Bundle(
        trust_domain=held.trust_domain,
        sequence=held.sequence + 1,
        roots=list(held.roots),
        issuers=list(held.issuers),
        statement_keys=list(held.statement_keys),
    )


def bundle_by_statement_key(rogue: Rogue) -> bytes:
    return rogue.said_by_ca("bundle", bundle(rogue))


def bundle_by_foreign_root(rogue: Rogue) -> bytes:
    return tiny_ca(rogue.trust_domain, rogue.now(), sequence=99).bundle_statement.raw


def policy(rogue: Rogue) -> Policy:
    return Policy(sequence=1_000, digest=NONSENSE, size=10, author="rogue")


def policy_by(who: Callable[[Rogue], Credential]) -> Forger:
    return lambda rogue: rogue.said_by(who(rogue), "policy", policy(rogue))


def heartbeat() -> Heartbeat:
    return Heartbeat(
        number=1, policy_sequence=1, policy_digest=ZERO, bundle_sequence=1, bundle_digest=ZERO, digest=ZERO
    )


def adopts_a_policy(rogue: Rogue) -> bytes:
    return rogue.said_by_ca("adoption", Adoption(original=policy_by(node)(rogue)))


def ends_before_it_begins(rogue: Rogue) -> bytes:
    raw = rogue.said_by(alice(rogue), "lock", LOCK_ALL)
    return _rewritten(raw, lambda e: {"payload": _altered(e.payload, expires=1)})


def oversized(rogue: Rogue) -> bytes:
    raw = rogue.said_by(alice(rogue), "lock", LOCK_ALL)
    return _rewritten(raw, lambda e: {"payload": e.payload + bytes(MAX_STATEMENT_BYTES)})


def nested(depth: int) -> Forger:
    return lambda _: b"\x91" * depth + b"\xc0"


def duplicate_keys(rogue: Rogue) -> bytes:
    raw = rogue.said_by(alice(rogue), "lock", LOCK_ALL)
    doubled = codec.encode("payload") + codec.encode(b"x")
    return bytes([raw[0] + 1]) + doubled + raw[1:]


def _flip(signature: bytes) -> bytes:
    return signature[:-1] + bytes([signature[-1] ^ 1])


def _altered(payload: bytes, **changes: object) -> bytes:
    fields = codec.decode(payload, Payload, limit=65_536, what="payload")
    return codec.encode(msgspec.structs.replace(fields, **changes))


def _rewritten(raw: bytes, change: Callable[[Envelope], dict[str, Any]]) -> bytes:
    envelope = codec.decode(raw, Envelope, limit=2**20, what="envelope")
    fields = {"payload": envelope.payload, "signature": envelope.signature, "chain": envelope.chain}
    return codec.encode({**fields, **change(envelope)})


# -- abuse of the exchange


async def replays_a_hundred_thousand_times(rogue: Rogue) -> str:
    """What is held already costs a look-up, is not passed on and not kept twice; others are served meanwhile."""
    raw = rogue.said_by(node(rogue), "revocation", revocation(rogue, str(rogue.agent_id(ROGUE))), life=MINUTE)
    async with link(rogue) as connection:
        await say(connection, wire.Statements(envelopes=[raw]))
        assert await is_done(connection)
        before = rogue.status()["statements"]
        for _ in range(1_000):
            await say(connection, wire.Statements(envelopes=[raw] * 100))
        assert await is_done(connection)
    grown = rogue.status()["statements"] - before
    return "kept once" if grown < 10 else f"{grown} more"  # Receipts of others may have come meanwhile.


async def lists_too_many(rogue: Rogue) -> str:
    part = bytes(16_000 * 16)
    async with link(rogue) as connection:
        try:
            for _ in range(17):
                await say(connection, wire.Ids(ids=part, last=False))
        except trio.BrokenResourceError:
            pass
        return "link stays" if await is_done(connection) else GONE


async def lists_what_nobody_has(rogue: Rogue) -> str:
    """Listings of ids that were made up: only so many are asked for and remembered."""
    wanted = 0
    async with link(rogue) as connection:
        for number in range(6):
            ids = b"".join(hashlib.sha256(f"{number}/{at}".encode()).digest()[:16] for at in range(16_000))
            await say(connection, wire.Ids(ids=ids, last=True))
        await say(connection, wire.Fetch(digest=NONSENSE, offset=0))
        async for message in _messages(connection):
            wanted += len(message.ids) // 16 if isinstance(message, wire.Want) else 0
    return "asked for few" if wanted <= 16_384 else f"asked for {wanted}"


async def wants_one_statement_often(rogue: Rogue) -> str:
    """16 bytes of request must not bring 64 KiB of answer over and over."""
    raw = rogue.said_by(node(rogue), "revocation", revocation(rogue, str(rogue.agent_id(ROGUE))), life=MINUTE)
    came = 0
    async with link(rogue) as connection:
        await say(connection, wire.Statements(envelopes=[raw]))
        assert await is_done(connection)
        await say(connection, wire.Want(ids=digest.pack([parse(raw).id] * 16_000)))
        await say(connection, wire.Fetch(digest=NONSENSE, offset=0))
        async for message in _messages(connection):
            if isinstance(message, wire.Statements):
                came += sum(one == raw for one in message.envelopes)
    return f"{came} copies"


async def fetches_and_never_reads(rogue: Rogue) -> str:
    """A member that asks and asks and does not take the answers loses its link, before they fill the memory."""
    named = rogue.status()["policy"]["digest"]
    frames = [wire.encode(wire.Fetch(digest=named, offset=0))] * 500
    async with link(rogue) as connection:
        with trio.move_on_after(20) as patience:
            try:
                while True:
                    await connection.frames.send_many(frames)
            except trio.BrokenResourceError:
                return GONE
        assert patience.cancelled_caught
    return "served for ever"


async def _messages(connection: Connection) -> AsyncIterator[Wire]:
    """What comes until the nonsense that was fetched last is answered."""
    while (frame := await answer(connection.frames)) is not None:
        message = wire.decode(frame.type, frame.body)
        if isinstance(message, wire.Object):
            return
        yield message


def _object(**changes: object) -> bytes:
    return codec.encode({"digest": ZERO, "offset": 0, "total": 10, "data": b"0123456789", **changes})


def _forged(name: str, forger: Forger) -> Case:
    return Case(name, sends(forger), STATEMENT, seen=NOT_HELD)


def _malformed(name: str, forger: Forger) -> Case:
    return Case(name, sends(forger), PROTOCOL)


CASES = [
    _forged("lock-signature-flipped", flipped),
    _forged("lock-signature-of-another-lock", another_payload),
    _forged("lock-chain-of-another-signer", anothers_chain),
    _forged("lock-by-a-node", by(node, "lock", LOCK_ALL)),
    _forged("lock-by-a-session", by(session, "lock", LOCK_ALL)),
    _forged("lock-by-nobody-in-the-roster", by(unknown_operator, "lock", LOCK_ALL)),
    _forged("lock-by-a-stolen-issuers-alice", by(alice_by_a_stolen_issuer, "lock", LOCK_ALL)),
    _forged("lock-by-alice-of-another-mesh", by(alice_elsewhere, "lock", LOCK_ALL)),
    _forged("lock-from-the-future", by(alice, "lock", LOCK_ALL, issued=2 * MINUTE)),
    _forged("lock-expired", by(alice, "lock", LOCK_ALL, issued=-3 * HOUR)),
    _forged("lock-before-its-signers-time", by(alice, "lock", LOCK_ALL, issued=-30 * MINUTE)),
    _forged("lock-for-five-hours", by(alice, "lock", LOCK_ALL, life=5 * HOUR)),
    _forged("lock-with-a-number-of-its-own", own_numbers),
    _forged("lock-of-another-epoch", by_ca("lock", LOCK_ALL, epoch=99)),
    _forged("lock-with-junk-behind-the-chain", padded_chain),
    _forged("revocation-of-another-nodes-session", ends_anothers_session),
    _forged("revocation-by-bare-id", revokes_by_bare_id),
    _forged("revocation-by-a-revoked-node", by_a_revoked_node),
    _forged(
        "revocation-of-a-node-by-a-node",
        by(node, "revocation", Revocation(target=Target(kind="node", value="tools-1"))),
    ),
    _forged(
        "revocation-of-an-admin-by-an-operator",
        by(alice, "revocation", Revocation(target=Target(kind="operator", value="alice"))),
    ),
    _forged("unlock-by-an-operator", by(alice, "unlock", Lift(ids=[a_name()]))),
    _forged("unlock-by-a-node", by(node, "unlock", Lift(ids=[a_name()]))),
    _forged("lock-relabelled-as-revocation", other_kind),
    _forged("unrevoke-by-a-node", by(node, "unrevoke", Lift(ids=[a_name()]))),
    _forged("demand-on-its-own", by(alice, "demand", Demand(action="unlock", ids=[a_name()]))),
    _forged("policy-by-a-node", policy_by(node)),
    _forged("policy-by-an-admin", policy_by(alice)),
    _forged("policy-adopted", adopts_a_policy),
    _forged(
        "member-by-an-admin",
        by(alice, "member", Member(member=Operator(sequence=9, name="mallory", key=ZERO, roles=["admin"]))),
    ),
    _forged(
        "member-by-itself",
        by(
            node,
            "member",
            Member(member=Node(sequence=9, name=ROGUE, addresses=[], version="9", features=[], labels=[])),
        ),
    ),
    _forged("bundle-by-the-statement-key", bundle_by_statement_key),
    _forged("bundle-by-a-foreign-root", bundle_by_foreign_root),
    _forged("heartbeat-by-a-node", by(node, "heartbeat", heartbeat())),
    _forged("heartbeat-an-hour-ahead", by_ca("heartbeat", heartbeat(), issued=HOUR)),
    _forged(
        "receipt-by-an-operator",
        by(alice, "receipt", Receipt(applied=[Applied(id=a_name(), since=0, cut=0)])),
    ),
    _forged("kind-of-the-future-by-a-node", by(node, "weather", LOCK_ALL)),
    _forged("lease-by-a-node", by(node, "lease", Lease(request=b"asked", until=Wall(0), approvers=[]))),
    _malformed("statement-oversized", oversized),
    _malformed("statement-deeply-nested", nested(60_000)),
    _malformed("statement-with-duplicate-keys", duplicate_keys),
    _malformed("statement-is-empty", lambda _: b""),
    _malformed("statement-expires-before-it-is-issued", ends_before_it_begins),
    Case("statements-no-messagepack", tells((FrameType.STATEMENTS, b"\xc1")), PROTOCOL),
    Case(
        "statements-too-many",
        tells((FrameType.STATEMENTS, codec.encode({"envelopes": [b""] * 4_097}))),
        PROTOCOL,
    ),
    Case("ids-not-whole", tells((FrameType.IDS, codec.encode({"ids": b"x" * 17, "last": True}))), PROTOCOL),
    Case("ids-without-end", lists_too_many, PROTOCOL),
    Case("ids-made-up", lists_what_nobody_has, NOTHING, seen="asked for few"),
    Case("want-not-whole", tells((FrameType.WANT, codec.encode({"ids": b"x"}))), PROTOCOL),
    Case(
        "want-unknown", tells((FrameType.WANT, codec.encode({"ids": bytes(160)}))), NOTHING, seen="link stays"
    ),
    Case("want-one-16000-times", wants_one_statement_often, NOTHING, seen="1 copies"),
    Case(
        "fetch-a-path",
        tells((FrameType.FETCH, codec.encode({"digest": "../../identity/key.pem", "offset": 0}))),
        PROTOCOL,
    ),
    Case(
        "fetch-in-capitals",
        tells((FrameType.FETCH, codec.encode({"digest": "A" * 64, "offset": 0}))),
        PROTOCOL,
    ),
    Case(
        "fetch-beyond-the-end",
        tells((FrameType.FETCH, codec.encode({"digest": ZERO, "offset": 2**53 - 1}))),
        NOTHING,
        seen="link stays",
    ),
    Case("fetch-and-never-read", fetches_and_never_reads, PROTOCOL),
    Case("object-unasked", tells((FrameType.OBJECT, _object())), NOTHING, seen="link stays"),
    Case("object-negative-offset", tells((FrameType.OBJECT, _object(offset=-1))), PROTOCOL),
    Case("summary-no-digest", tells((FrameType.SUMMARY, codec.encode({"digest": "x"}))), PROTOCOL),
    Case("prove-on-a-control-link", tells((FrameType.PROVE, b"")), PROTOCOL),
    Case("data-on-a-control-link", tells((FrameType.DATA, b"x")), PROTOCOL),
    Case("unknown-type-on-a-control-link", tells((31, b"x")), PROTOCOL),
    Case("statements-a-hundred-thousand-times", replays_a_hundred_thousand_times, NOTHING, seen="kept once"),
]
