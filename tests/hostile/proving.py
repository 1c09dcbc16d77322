"""Attacks with PROVE and OPEN: a member that speaks for sessions it does not have, or asks for what it may not."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import trio

from pki import codec
from pki.clock import HOUR, Wall
from sidecar import wire
from sidecar.identity import Credential
from sidecar.overlay import Connection
from sidecar.proxy import proof
from sidecar.wire import FrameType
from tests.authority import new_key, tiny_ca
from tests.hostile.rogue import (
    AGENTS,
    BAD_PROOF,
    GONE,
    NOTHING,
    PROTOCOL,
    ROGUE,
    Case,
    Rogue,
    a_name,
    answer,
    seen,
)

Attack = Callable[[Rogue], Awaitable[str]]
Making = Callable[[Rogue, Connection], bytes]


def proves(make: Making, *, times: int = 1) -> Attack:
    """A PROVE with this body, and then a good OPEN: what the victim says to them."""

    async def attack(rogue: Rogue) -> str:
        async with rogue.connection() as connection:
            body = make(rogue, connection)
            frames = [(FrameType.PROVE, body)] * times
            await _pushed(connection, [*frames, (FrameType.OPEN, rogue.opening())])
            return await seen(connection.frames)

    return attack


def opens(*bodies: Callable[[Rogue], bytes], prove: bool = True) -> Attack:
    """OPENs one after the other, behind a good PROVE: the victim's word on the last."""

    async def attack(rogue: Rogue) -> str:
        async with rogue.connection() as connection:
            frames = [(FrameType.PROVE, good(rogue, connection))] if prove else []
            await _pushed(connection, [*frames, *((FrameType.OPEN, body(rogue)) for body in bodies)])
            words = [await seen(connection.frames) for _ in bodies]
            return words[-1]

    return attack


def asks(**fields: Any) -> Attack:
    """One OPEN of a proven session with these fields."""
    return opens(lambda rogue: rogue.opening(**fields))


def good(rogue: Rogue, connection: Connection) -> bytes:
    return codec.encode(rogue.proof(connection))


def _changed(**changes: object) -> Making:
    return lambda rogue, connection: codec.encode(
        {"body": rogue.proof(connection).body, "signature": rogue.proof(connection).signature, **changes}
    )


def _body(chain: list[bytes], role: str = "session") -> bytes:
    return codec.encode({"role": role, "chain": chain})


def flipped(rogue: Rogue, connection: Connection) -> bytes:
    prove = rogue.proof(connection)
    last = bytes([prove.signature[-1] ^ 1])
    return codec.encode(wire.Prove(body=prove.body, signature=prove.signature[:-1] + last))


def body_changed(rogue: Rogue, connection: Connection) -> bytes:
    """The same certificates in another encoding: the signature is over the bytes, not over what they say."""
    prove = rogue.proof(connection)
    longer = prove.body[:1] + b"\xd9\x04" + prove.body[2:]  # "role" with a str8 header instead of a fixstr
    return codec.encode(wire.Prove(body=longer, signature=prove.signature))


def proves_as(session_of: Callable[[Rogue], Credential]) -> Making:
    """A PROVE that holds together, of a session that is not what it should be."""
    return lambda rogue, connection: codec.encode(rogue.proof(connection, session_of(rogue)))


def renews(credential_of: Callable[[Rogue], Credential]) -> Making:
    """A PROVE of the peer's own next certificate, which is not that."""
    return lambda rogue, connection: codec.encode(rogue.proof(connection, credential_of(rogue), "node"))


def shows(chain_of: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]) -> Making:
    """A PROVE of the rogue's session with another chain."""
    return proves_as(lambda rogue: replace(rogue.session, chain=chain_of(rogue.session.chain)))


def minted(node: str = AGENTS, *, at: int = 0) -> Making:
    """A PROVE of a session under the stolen issuing key, issued at ``at`` from now (us) for an hour."""
    return proves_as(lambda rogue: rogue.mint(rogue.agent_id(node), Wall(rogue.now() + at)))


def foreign(rogue: Rogue) -> Credential:
    """A session of another mesh of the same name."""
    key = new_key()
    mesh = tiny_ca(rogue.trust_domain, rogue.now())
    return Credential(rogue.session.id, mesh.issue(rogue.session.id, key), key)


def no_binding(rogue: Rogue, connection: Connection) -> bytes:
    """A signature over an exporter that the rogue made up."""
    made_up = proof.prove(rogue.session.key, rogue.session.chain, bytes(32))
    return codec.encode(made_up)


async def replays(rogue: Rogue) -> str:
    """A good PROVE, captured on one connection and played on another."""
    async with rogue.connection() as first, rogue.connection() as second:
        body = good(rogue, first)
        await _pushed(first, [(FrameType.PROVE, body), (FrameType.OPEN, rogue.opening())])
        assert await seen(first.frames) == "ACCEPTED"
        await _pushed(second, [(FrameType.PROVE, body), (FrameType.OPEN, rogue.opening())])
        return await seen(second.frames)


async def reflects(rogue: Rogue) -> str:
    """A PROVE whose exporter names the two ends in the wrong order."""
    async with rogue.connection() as connection:
        connection.opens = False
        body = good(rogue, connection)
        await _pushed(connection, [(FrameType.PROVE, body), (FrameType.OPEN, rogue.opening())])
        return await seen(connection.frames)


async def repeats_a_live_stream(rogue: Rogue) -> str:
    """Two streams under one id: the record of their end would be of both."""
    name = a_name()
    async with rogue.connection() as first, rogue.connection() as second:
        words = []
        for connection in (first, second):
            opening = rogue.opening(stream=name)
            await _pushed(connection, [(FrameType.PROVE, good(rogue, connection)), (FrameType.OPEN, opening)])
            words.append(await seen(connection.frames))
        assert words[0] == "ACCEPTED"
        return words[1]


async def refused_and_goes_on(rogue: Rogue) -> str:
    """A refusal ends the stream and not the connection: the next OPEN is served."""
    async with rogue.connection() as connection:
        refused, fine = rogue.opening(service="vault"), rogue.opening(1)
        await _pushed(
            connection,
            [(FrameType.PROVE, good(rogue, connection)), (FrameType.OPEN, refused), (FrameType.OPEN, fine)],
        )
        assert await seen(connection.frames) == "no_grant"
        return await seen(connection.frames)


async def data_behind_a_refused_open(rogue: Rogue) -> str:
    """Bytes sent before ACCEPTED, which never comes."""
    async with rogue.connection() as connection:
        await _pushed(
            connection,
            [
                (FrameType.PROVE, good(rogue, connection)),
                (FrameType.OPEN, rogue.opening(service="vault")),
                (FrameType.DATA, b"DROP TABLE"),
            ],
        )
        assert await seen(connection.frames) == "no_grant"
        return await seen(connection.frames)


async def _pushed(connection: Connection, frames: list[tuple[int, bytes]]) -> None:
    """Send frames; a victim that hangs up under it is heard of when its answer is read."""
    try:
        await connection.frames.send_many(frames)
    except trio.BrokenResourceError:
        assert await answer(connection.frames) is None


CASES = [
    Case("prove-empty", proves(lambda *_: b""), BAD_PROOF),
    Case("prove-truncated", proves(lambda rogue, connection: good(rogue, connection)[:-20]), BAD_PROOF),
    Case(
        "prove-trailing-bytes", proves(lambda rogue, connection: good(rogue, connection) + b"\0"), BAD_PROOF
    ),
    Case("prove-no-messagepack", proves(lambda *_: b"\xc1" * 100), BAD_PROOF),
    Case("prove-deeply-nested", proves(lambda *_: b"\x91" * 30_000 + b"\xc0"), BAD_PROOF),
    Case("prove-oversized", proves(lambda *_: bytes(32 * 1024 + 1)), PROTOCOL),
    Case("prove-unknown-key", proves(_changed(narrowing=b"")), BAD_PROOF),
    Case("prove-body-is-no-messagepack", proves(_changed(body=b"\xc1")), BAD_PROOF),
    Case("prove-without-chain", proves(_changed(body=_body([]))), BAD_PROOF),
    Case("prove-300-certificates", proves(_changed(body=_body([b"x"] * 300))), BAD_PROOF),
    Case(
        "prove-certificate-is-garbage",
        proves(_changed(body=_body([b"\x30\x80" * 99]))),
        BAD_PROOF,
    ),
    Case("prove-no-signature", proves(_changed(signature=b"")), BAD_PROOF),
    Case("prove-signature-of-1-KiB", proves(_changed(signature=bytes(1_024))), BAD_PROOF),
    Case("prove-signature-flipped", proves(flipped), BAD_PROOF),
    Case("prove-encoded-otherwise", proves(body_changed), BAD_PROOF),
    Case(
        "prove-signed-by-another-key",
        proves(proves_as(lambda rogue: replace(rogue.session, key=new_key()))),
        BAD_PROOF,
    ),
    Case("prove-of-no-connection", proves(no_binding), BAD_PROOF),
    Case("prove-replayed-on-another-connection", replays, BAD_PROOF),
    Case("prove-ends-swapped", reflects, BAD_PROOF),
    Case("prove-another-nodes-session", proves(minted("agents-2")), BAD_PROOF),
    Case("prove-victims-own-session", proves(minted("tools-1")), BAD_PROOF),
    Case("prove-node-certificate", proves(proves_as(lambda rogue: rogue.members[AGENTS])), BAD_PROOF),
    Case("prove-operator-certificate", proves(proves_as(lambda rogue: rogue.alice.credential)), BAD_PROOF),
    Case("prove-expired-session", proves(minted(at=-3 * HOUR)), BAD_PROOF),
    Case("prove-future-session", proves(minted(at=HOUR)), BAD_PROOF),
    Case("prove-foreign-issuer", proves(proves_as(foreign)), BAD_PROOF),
    Case("prove-issuer-missing", proves(shows(lambda chain: chain[:1])), BAD_PROOF),
    Case("prove-too-many-certificates", proves(shows(lambda chain: chain * 2)), BAD_PROOF),
    Case("prove-chain-upside-down", proves(shows(lambda chain: chain[::-1])), BAD_PROOF),
    Case("prove-unknown-role", proves(_changed(body=_body([], "root"))), BAD_PROOF),
    Case("prove-session-as-the-nodes-next", proves(renews(lambda rogue: rogue.session)), BAD_PROOF),
    Case("prove-another-node-as-the-next", proves(renews(lambda rogue: rogue.members[ROGUE])), BAD_PROOF),
    Case("prove-another-lineage-as-the-next", proves(renews(lambda r: r.mint(r.node_id(AGENTS)))), BAD_PROOF),
    Case("prove-101-times", proves(good, times=101), PROTOCOL),
    Case("open-without-prove", opens(lambda rogue: rogue.opening(), prove=False), BAD_PROOF),
    Case("open-for-a-session-not-proven", asks(session=a_name()), BAD_PROOF),
    Case("open-wrong-ordinal", asks(ordinal=1), PROTOCOL),
    Case("open-negative-ordinal", asks(ordinal=-1), PROTOCOL),
    Case("open-ordinal-beyond-64-bits", asks(ordinal=2**64 - 1), PROTOCOL),
    Case(
        "open-repeated-ordinal", opens(lambda r: r.opening(service="vault"), lambda r: r.opening()), PROTOCOL
    ),
    Case("open-stream-id-that-is-live", repeats_a_live_stream, PROTOCOL),
    Case("open-short-stream-id", asks(stream="abc"), PROTOCOL),
    Case("open-stream-id-in-capitals", asks(stream="A" * 26), PROTOCOL),
    Case("open-stream-id-with-line-break", asks(stream="a" * 26 + "\n"), PROTOCOL),
    Case("open-stream-id-is-a-path", asks(stream="../../../etc/passwd/aaaaaa"), PROTOCOL),
    Case("open-service-as-bytes", asks(service=b"echo"), PROTOCOL),
    Case("open-service-of-501", asks(service="a" * 501), PROTOCOL),
    Case("open-service-is-no-name", asks(service="echo\x1b[31m"), PROTOCOL),
    Case("open-service-with-line-break", asks(service="echo\n"), PROTOCOL),
    Case("open-names-a-target", asks(target="127.0.0.1:22"), PROTOCOL),
    Case("open-traceparent-with-line-break", asks(traceparent="00-\r\nX-Admin: yes"), PROTOCOL),
    Case("open-traceparent-with-controls", asks(traceparent="\x1b]0;owned\x07"), PROTOCOL),
    Case("open-traceparent-too-long", asks(traceparent="0" * 56), PROTOCOL),
    Case("open-2-KiB", opens(lambda _: bytes(2_048)), PROTOCOL),
    Case("open-empty", opens(lambda _: b""), PROTOCOL),
    Case("open-unknown-service", asks(service="nothing"), "denied:no_grant", seen="no_grant"),
    Case("open-ungranted-service", asks(service="vault"), "denied:no_grant", seen="no_grant"),
    Case("data-behind-a-refused-open", data_behind_a_refused_open, PROTOCOL),
    Case("refused-and-goes-on", refused_and_goes_on, NOTHING, seen="ACCEPTED"),
]

assert all(case.seen == GONE for case in CASES if case.counted in (PROTOCOL, BAD_PROOF))
