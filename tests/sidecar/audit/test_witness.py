from dataclasses import replace

import pytest
import trio.testing

from pki.clock import HOUR, SECOND, Boot, Wall
from pki.judge import Word
from pki.statement import AuditHead, Signer, Statement, parse
from sidecar.audit.chain import Head
from sidecar.audit.checkpoint import EVERY_SECONDS, Note, Signatory, note_of, sign
from sidecar.audit.record import Kind, Record
from sidecar.audit.witness import HEAD_LIFE, Heads, HeadTeller
from tests.authority import NOW
from tests.statements import Mint, lock, word_of
from tests.statements import Signatory as Member

MINT = Mint()
TOOLS: Member = MINT.node("tools-1")
US = Signatory(TOOLS.id, TOOLS.chain, TOOLS.key)


def name(ordinal: int) -> str:
    return f"20260101T000000Z-{ordinal:08x}.jsonl"


def note(volume: int = 0, seq: int = 9, at: int = NOW, head: bytes = bytes(32)) -> Note:
    return sign(US, Head(name(volume), seq, head), Wall(at))


def said(what: Note, by: Member = TOOLS) -> Word:
    body = AuditHead(
        volume=what.volume, count=what.count, head=what.head, at=what.at, signature=what.signature
    )
    return word_of(by.says("audit-head", body), by.id, Signer.NODE)


def kept(heads: Heads, what: Note, volume: str = "ours.jsonl") -> list[Record]:
    word = said(what)
    return heads.records_of(word.statement, word, NOW, volume)


def test_the_head_of_another_node_is_written_down_with_its_signature() -> None:
    """All that it takes to check it, years later."""
    head = note()
    [one] = kept(Heads("agents-1"), head)
    assert (one.kind, one.fields["of"]) == (Kind.WITNESS, "tools-1")
    assert note_of(one.fields) == head
    assert len(one.fields["certificates"]) == 2  # type: ignore[arg-type]  # a list


def test_a_signer_is_introduced_once_in_each_volume_of_ours() -> None:
    """Volumes are removed one by one: each stands for itself."""
    heads = Heads("agents-1")
    found = [
        "certificates" in kept(heads, note(seq=n), volume)[0].fields
        for n, volume in enumerate(["one", "one", "two", "two"])
    ]
    assert found == [True, False, True, False]


def test_ones_own_head_is_no_witness() -> None:
    """And other statements are none."""
    assert kept(Heads("tools-1"), note()) == []
    other = MINT.says("lock", lock())
    assert Heads("a").records_of(other, Word(other, frozenset({Signer.CA}), None), NOW, "") == []


def test_a_head_that_could_not_be_shown_to_anybody_is_a_finding() -> None:
    """Its node signs the statement, and not what is in it."""
    [one] = kept(Heads("agents-1"), replace(note(), signature=b"junk"))
    assert (one.kind, one.fields["what"]) == (Kind.FINDING, "audit_head_unsigned")


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        (note(0, 9), note(0, 9), ""),
        (note(0, 9), note(0, 10), ""),
        (note(0, 9), note(1, 0), ""),
        (note(0, 9), note(0, 8), "audit_head_went_back"),
        (note(1, 0), note(0, 9), "audit_head_went_back"),
        (note(0, 9), note(0, 9, head=b"x" * 32), "audit_head_forked"),
    ],
    ids=["same", "on", "next volume", "back", "volume back", "forked"],
)
def test_two_heads_that_cannot_both_be_are_a_finding_at_once(before: Note, now: Note, found: str) -> None:
    """Both are kept: either of them may be what is needed."""
    heads = Heads("agents-1")
    kept(heads, before)
    records = kept(heads, now)
    assert records[0].kind is Kind.WITNESS
    assert [one.fields["what"] for one in records[1:]] == ([found] if found else [])


class Log:
    def __init__(self) -> None:
        self.note: Note | None = None


class Clock:
    def wall(self) -> Wall:
        return NOW

    def boot(self) -> Boot:
        return Boot(0)


async def test_the_newest_head_is_told_when_it_is_new_and_not_too_often(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """At most one statement in ten seconds, whatever is written."""
    log, told = Log(), list[Statement]()

    def publish(raws: list[bytes]) -> None:
        told.extend(map(parse, raws))

    teller = HeadTeller(log, lambda: US, lambda: 1, Clock(), publish)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(teller.run)
        await trio.sleep(5)
        assert told == []
        log.note = note(seq=1)
        await trio.sleep(2)
        assert len(told) == 1
        log.note = note(seq=2)
        await trio.sleep(EVERY_SECONDS / 2)
        assert len(told) == 1
        await trio.sleep(EVERY_SECONDS)
        assert len(told) == 2
        await trio.sleep(HOUR / SECOND)
        nursery.cancel_scope.cancel()
    assert len(told) == 2
    body = told[-1].body
    assert isinstance(body, AuditHead)
    assert (body.count, told[-1].payload.expires) == (3, NOW + HEAD_LIFE)


def test_a_checkpoint_of_the_certificate_before_is_not_told() -> None:
    """The statement would be under another key than what it carries; the next one is a moment away."""
    log = Log()
    log.note = note()
    renewed = MINT.node("tools-1")
    teller = HeadTeller(
        log, lambda: Signatory(renewed.id, renewed.chain, renewed.key), lambda: 1, Clock(), lambda _: None
    )
    assert not teller.tell()
