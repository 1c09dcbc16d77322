"""Whole exchanges of a member with bytes changed, cut, doubled and put in: the same ones in every run."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

import trio

from pki import codec, framing
from sidecar import wire
from sidecar.wire import FrameType
from tests.hostile import gossiping
from tests.hostile.greeting import hello
from tests.hostile.proving import good
from tests.hostile.rogue import ROGUE, TROUBLE, Rogue, hangs_up

T = TypeVar("T")


class Dice:
    """Numbers that look like chance, from a seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._thrown = 0

    def below(self, limit: int) -> int:
        self._thrown += 1
        thrown = hashlib.sha256(f"{self._seed}/{self._thrown}".encode()).digest()
        return int.from_bytes(thrown[:8]) % limit

    def some(self, count: int) -> bytes:
        return bytes(self.below(256) for _ in range(count))

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def mutated(self, data: bytes) -> bytes:
        """``data`` with a few changes, or none."""
        changed = bytearray(data)
        for _ in range(self.pick((0, 1, 1, 2, 4))):
            at = self.below(len(changed) + 1)
            match self.below(4):
                case 0:
                    changed[at : at + 1] = self.some(1)
                case 1:
                    del changed[at:]
                case 2:
                    changed[at:at] = self.some(1 + self.below(8))
                case _:
                    del changed[at : at + 1 + self.below(3)]
        return bytes(changed)


async def plays(rogue: Rogue, seeds: range) -> None:
    """One exchange for each seed. What the victim thinks of it is for the caller to look at."""
    for seed in seeds:
        dice = Dice(seed)
        with suppress(*TROUBLE):
            await dice.pick((_greets, _gossips, _streams, _streams))(rogue, dice)


async def _greets(rogue: Rogue, dice: Dice) -> None:
    async with rogue.frames() as frames:
        await frames.stream.send_all(dice.mutated(framing.encode(FrameType.HELLO, hello())))
        with trio.move_on_after(0.02):
            await hangs_up(frames.stream)


async def _gossips(rogue: Rogue, dice: Dice) -> None:
    forgers = (gossiping.flipped, gossiping.padded_chain, gossiping.own_numbers, gossiping.adopts_a_policy)
    async with rogue.connection("control", ROGUE) as connection:
        for _ in range(1 + dice.below(6)):
            message = dice.pick(
                (
                    wire.Statements(envelopes=[dice.mutated(dice.pick(forgers)(rogue)) for _ in range(2)]),
                    wire.Ids(ids=dice.some(16 * dice.below(4)), last=dice.below(2) == 0),
                    wire.Want(ids=dice.some(32)),
                    wire.Object(digest="0" * 64, offset=0, total=5, data=b"xxx"),
                )
            )
            kind, body = wire.encode(message)
            await connection.frames.send(kind, dice.mutated(body))
        with trio.move_on_after(0.02):
            await hangs_up(connection.tls)


async def _streams(rogue: Rogue, dice: Dice) -> None:
    async with rogue.connection() as connection:
        ordinal = 0
        await connection.frames.send(FrameType.PROVE, good(rogue, connection))
        for _ in range(1 + dice.below(5)):
            bodies = {
                FrameType.OPEN: rogue.opening(ordinal),
                FrameType.DATA: dice.some(dice.below(50)),
                FrameType.END: b"",
                FrameType.PROVE: good(rogue, connection),
                FrameType.RESET: codec.encode({"reason": ""}),
                FrameType.ACCEPTED: codec.encode({"ordinal": ordinal}),
            }
            kind = dice.pick((FrameType.OPEN, FrameType.OPEN, *bodies))
            ordinal += kind == FrameType.OPEN
            body = dice.mutated(bodies[kind]) if dice.below(4) == 0 else bodies[kind]
            await connection.frames.send(kind, body)
        with trio.move_on_after(0.02):
            await hangs_up(connection.tls)
