"""Attacks with child sessions: a member whose narrowings are not what they should be, or that asks for what they took."""

from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pki import codec
from pki.clock import HOUR, MINUTE, Wall
from pki.spki import Key
from sidecar import wire
from sidecar.policy.narrowing import Narrowing
from sidecar.proxy import proof
from sidecar.session import narrowing
from sidecar.wire import FrameType, Narrowed
from tests.authority import new_key
from tests.hostile.rogue import BAD_PROOF, NOTHING, Case, Rogue, a_name, seen

Steps = Callable[[Rogue], list[bytes]]
Attack = Callable[[Rogue], Awaitable[str]]


def left(
    rogue: Rogue, *services: str, life: int = HOUR, operations: tuple[str, ...] | None = None
) -> Narrowing:
    return Narrowing(frozenset(services), operations, Wall(rogue.now() + life))


def chain(parent: str, *lefts: Narrowing) -> list[bytes]:
    """Steps from ``parent`` down, whatever they leave."""
    bodies: list[bytes] = []
    for one in lefts:
        bodies.append(narrowing.make(narrowing.child_id(bodies[-1]) if bodies else parent, one, bytes(16)))
    return bodies


def below(rogue: Rogue, *lefts: Narrowing) -> list[bytes]:
    """Steps from the rogue's session down."""
    return chain(rogue.session.id.session, *lefts)


def opens(steps: Steps, *, key: Key | None = None, as_child: bool = True) -> Attack:
    """A PROVE with these steps, each signed by ``key`` or as it should be, and an OPEN of echo by the last child."""

    async def attack(rogue: Rogue) -> str:
        async with rogue.connection() as connection:
            bodies = steps(rogue)
            signed = narrowing.sign(bodies, key or rogue.session.key)
            session = narrowing.child_id(bodies[-1]) if as_child else rogue.session.id.session
            prove = proven(rogue, connection.exporter(proof.EXPORTER_LABEL), signed)
            await connection.frames.send(FrameType.PROVE, codec.encode(prove))
            await connection.frames.send(FrameType.OPEN, rogue.opening(session=session))
            return await seen(connection.frames)

    return attack


def proven(rogue: Rogue, exporter: bytes, steps: Sequence[Narrowed]) -> wire.Prove:
    """A proof that holds together but for its steps."""
    session = rogue.session
    body = codec.encode(wire.ProveBody(role="session", chain=list(session.chain), narrowings=list(steps)))
    message = proof.PREFIX + exporter + sha256(body).digest()
    return wire.Prove(body=body, signature=session.key.sign(message, ec.ECDSA(hashes.SHA256())))


async def child_of_a_bare_proof(rogue: Rogue) -> str:
    """The session is proven; its child, which nobody has shown, is asked for."""
    async with rogue.connection() as connection:
        [step] = below(rogue, left(rogue, "echo"))
        prove = proven(rogue, connection.exporter(proof.EXPORTER_LABEL), ())
        await connection.frames.send(FrameType.PROVE, codec.encode(prove))
        await connection.frames.send(FrameType.OPEN, rogue.opening(session=narrowing.child_id(step)))
        return await seen(connection.frames)


def widened(rogue: Rogue) -> list[bytes]:
    return below(rogue, left(rogue, "wiki"), left(rogue, "wiki", "echo"))


def longer(rogue: Rogue) -> list[bytes]:
    return below(rogue, left(rogue, "echo", life=MINUTE), left(rogue, "echo"))


def freer(rogue: Rogue) -> list[bytes]:
    return below(rogue, left(rogue, "echo", operations=("GET /a",)), left(rogue, "echo"))


CASES = [
    Case("child-of-what-was-left", opens(lambda r: below(r, left(r, "echo"))), NOTHING, seen="ACCEPTED"),
    Case(
        "child-of-another-service",
        opens(lambda r: below(r, left(r, "wiki"))),
        "denied:narrowed",
        seen="narrowed",
    ),
    Case(
        "child-whose-time-is-over",
        opens(lambda r: below(r, left(r, "echo", life=-MINUTE))),
        "denied:narrowed",
        seen="narrowed",
    ),
    Case(
        "child-of-operations-in-a-tcp-stream",
        opens(lambda r: below(r, left(r, "echo", operations=("GET /**",)))),
        "denied:narrowed",
        seen="narrowed",
    ),
    Case("child-that-widens-its-services", opens(widened), BAD_PROOF),
    Case("child-that-widens-its-time", opens(longer), BAD_PROOF),
    Case("child-that-widens-its-operations", opens(freer), BAD_PROOF),
    Case("child-that-signed-itself", opens(lambda r: below(r, left(r, "echo")), key=new_key()), BAD_PROOF),
    Case("child-of-another-session", opens(lambda r: chain(a_name(), left(r, "echo"))), BAD_PROOF),
    Case("child-upside-down", opens(lambda r: below(r, *[left(r, "echo")] * 2)[::-1]), BAD_PROOF),
    Case("child-without-its-parent", opens(lambda r: below(r, *[left(r, "echo")] * 2)[1:]), BAD_PROOF),
    Case("child-five-deep", opens(lambda r: below(r, *[left(r, "echo")] * 5)), BAD_PROOF),
    Case("child-of-garbage", opens(lambda _: [b"\xc1"]), BAD_PROOF),
    Case("child-of-4097-bytes", opens(lambda _: [bytes(4_097)]), BAD_PROOF),
    Case(
        "child-that-opens-as-its-session",
        opens(lambda r: below(r, left(r, "echo")), as_child=False),
        BAD_PROOF,
    ),
    Case("child-that-nobody-proved", child_of_a_bare_proof, BAD_PROOF),
]
