"""A log that was changed in ten thousand ways, and what each of them shows."""

import json
import os
import random  # noqa: TID251 - seeded: the same changes in every run
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pki.errors import LocalError
from sidecar.audit.chain import Head, seal, start
from sidecar.audit.checkpoint import Signatory, introduction, sign
from sidecar.audit.examine import Findings, examine, log_folder
from sidecar.audit.proven import KeptHeads, Signed, Witnessed
from sidecar.audit.record import Kind
from sidecar.audit.verify import Observer, verify_folder
from sidecar.disk import RealDisk
from tests.auditlog import NOON, Keeper
from tests.authority import tiny_ca
from tests.faultdisk import FaultDisk

MUTATIONS = int(os.environ.get("LOCKGATE_MUTATIONS", "10000"))

Lines = list[list[bytes]]
"""A log, volume by volume."""


class Both(FaultDisk):
    """The disks of two nodes as one, each below a folder of its own."""

    def __init__(self, *nodes: Keeper) -> None:
        super().__init__()
        for node in nodes:
            self.folders.add(Path("/", node.name))
            for path in node.paths:
                self.put(Path("/", node.name, path.name), node.disk.content(path))


@pytest.fixture(scope="module")
def told() -> tuple[Keeper, Keeper]:
    """A log of two volumes, and the log of a peer that holds its heads."""
    ours = Keeper()
    ours.writes(2, 3)
    ours.writes(1, 2)
    peer = Keeper("agents-1", ours.ca)
    peer.keeps(ours)
    return ours, peer


def judged(told: tuple[Keeper, Keeper], lines: Lines | None = None) -> Findings:
    """What the two logs show, with ``lines`` in place of what ours holds."""
    ours, peer = told
    disk = Both(ours, peer)
    if lines is not None:
        laid_out(disk, ours, lines)
    return examine([Path("/tools-1"), Path("/agents-1")], ours.ca.bundle, disk=disk)


def laid_out(disk: FaultDisk, keeper: Keeper, lines: Lines) -> Path:
    """Put these lines in place of the log; its folder."""
    folder = Path("/", keeper.name)
    for path, content in zip(keeper.paths, lines, strict=True):
        if content:
            disk.put(folder / path.name, b"".join(content))
        elif folder / path.name in disk.paths:
            disk.remove(folder / path.name)
    return folder


def lines_of(keeper: Keeper) -> Lines:
    return [keeper.disk.content(path).splitlines(keepends=True) for path in keeper.paths]


def computed_anew(keeper: Keeper, lines: Lines, first: int, who: Signatory | None = None) -> Lines:
    """The log with a right chain from volume ``first`` on, and its checkpoints signed by ``who``, if anybody."""
    made, head, introduced = lines[:first], None, ""
    for path, volume in zip(keeper.paths[first:], lines[first:], strict=True):
        bodies: list[dict[str, Any]] = [json.loads(line) for line in volume]
        if head is not None:
            bodies[0]["previous"] = head.facts()
        previous = bodies[0]["previous"]
        chain = bytes.fromhex(previous["chain"]) if previous else start(None)
        made.append([])
        for seq, body in enumerate(bodies):
            del body["chain"]
            if who is not None and body["kind"] == "checkpoint":
                assert head is not None
                note = sign(who, head, NOON)
                body.update(note.facts(), **({} if introduced else introduction(who.chain, who.bundle)))
                introduced = note.leaf
            line, chain = seal(chain, {**body, "seq": seq})
            made[-1].append(line)
            head = Head(path.name, seq, chain)
    return made


def flip(lines: Lines, dice: random.Random) -> Lines:
    volume = dice.randrange(2)
    content = bytearray(b"".join(lines[volume]))
    at = dice.randrange(len(content) - 1)  # the last LF alone makes a torn end, which is no fault
    content[at] ^= 1 << dice.randrange(8)
    lines[volume] = bytes(content).splitlines(keepends=True)
    return lines


def remove(lines: Lines, dice: random.Random) -> Lines:
    volume = dice.randrange(2)
    del lines[volume][dice.randrange(len(lines[volume]) - 1)]
    return lines


def swap(lines: Lines, dice: random.Random) -> Lines:
    volume = dice.choice(lines)
    one, two = dice.sample(range(len(volume)), 2)
    volume[one], volume[two] = volume[two], volume[one]
    return lines


def repeat(lines: Lines, dice: random.Random) -> Lines:
    volume = dice.choice(lines)
    volume.insert(dice.randrange(1, len(volume)), dice.choice(dice.choice(lines)))
    return lines


def cut(lines: Lines, dice: random.Random) -> Lines:
    """The end, by one line or more: the last checkpoint itself is no record that a peer holds."""
    count = dice.randrange(2, len(lines[1]) + 1)
    return [lines[0], lines[1][:-count]]


def cut_first(lines: Lines, _: random.Random) -> Lines:
    return [[], lines[1]]


MUTATORS = [flip, flip, flip, remove, swap, repeat, cut, cut_first]


def test_the_log_as_it_was_written_is_right(told: tuple[Keeper, Keeper]) -> None:
    """Signed by its node up to its last checkpoint, and held by a peer up to there."""
    found = judged(told)
    assert found.is_right
    ours = found.logs[0].report
    assert (found.logs[0].node, ours.checkpoints) == ("tools-1", 6)
    assert ours.signed == ours.witnessed
    assert "peers hold it up to" in ours.provable


def test_ten_thousand_changes_are_all_found(told: tuple[Keeper, Keeper]) -> None:
    """Bytes, lines and ends, one at a time, by a seeded die; the rest of the log is what it was."""
    ours, peer = told
    whole, disk = lines_of(ours), Both(ours, peer)
    kept_heads = KeptHeads(ours.ca.bundle)
    for line in disk.content(Path("/agents-1", peer.paths[0].name)).splitlines():
        kept_heads.take(json.loads(line))
    for seed in range(MUTATIONS):
        dice = random.Random(seed)  # noqa: S311 - the same
        mutate = dice.choice(MUTATORS)
        changed = mutate([list(volume) for volume in whole], dice)
        if changed != whole:
            place = laid_out(disk, ours, changed)
            observers: list[Observer] = [Signed(ours.ca.bundle), Witnessed(kept_heads.kept)]
            assert verify_folder(place, disk, observers).first_bad is not None, (mutate.__name__, seed)


def edited(lines: Lines) -> Lines:
    """A record of the first volume says something else."""
    lines[0][3] = lines[0][3].replace(b'"note ', b'"nota ')
    return lines


def inserted(lines: Lines) -> Lines:
    """One that never was stands between two."""
    lines[0].insert(3, lines[0][3])
    return lines


@pytest.mark.parametrize("change", [edited, inserted])
def test_a_chain_that_was_computed_anew_is_found_by_its_signatures(
    told: tuple[Keeper, Keeper], change: Callable[[Lines], Lines]
) -> None:
    """The chain is right again; the first checkpoint after the change is not the node's word for it."""
    ours = told[0]
    disk = Both(ours)
    place = laid_out(disk, ours, computed_anew(ours, change(lines_of(ours)), 0))
    bad = examine([place], ours.ca.bundle, disk=disk).logs[0].report.first_bad
    assert bad is not None
    assert bad.volume == ours.paths[0].name
    assert "what stands before it since the last checkpoint is not shown either" in bad.what


def without_checkpoints(lines: Lines) -> Lines:
    return [[line for line in volume if b'"kind":"checkpoint"' not in line] for volume in lines]


def test_a_log_without_its_checkpoints_is_found(told: tuple[Keeper, Keeper]) -> None:
    """Leaving them all out is no way around them."""
    ours = told[0]
    disk = Both(ours)
    place = laid_out(disk, ours, computed_anew(ours, without_checkpoints(lines_of(ours)), 0))
    bad = examine([place], ours.ca.bundle, disk=disk).logs[0].report.first_bad
    assert bad is not None
    assert bad.what == "begins a log that no checkpoint signs"


def test_the_signature_of_another_member_does_not_count(told: tuple[Keeper, Keeper]) -> None:
    """Each member's key is good for its own log."""
    ours, peer = told
    bad = (
        judged(told, computed_anew(ours, edited(lines_of(ours)), 0, peer.signatory)).logs[0].report.first_bad
    )
    assert bad is not None
    assert "is signed by spiffe://example.org/node/agents-1, not by tools-1" in bad.what


def test_the_signature_of_another_mesh_does_not_count(told: tuple[Keeper, Keeper]) -> None:
    """Whatever bundle the log brings along, it must be of our root."""
    ours = told[0]
    stranger = Keeper(ca=tiny_ca())
    lines = computed_anew(ours, edited(lines_of(ours)), 0, stranger.signatory)
    bad = judged(told, lines).logs[0].report.first_bad
    assert bad is not None
    assert "not signed by a root that is trusted here" in bad.what


def test_a_node_that_tells_another_story_itself_is_found_by_its_peers(told: tuple[Keeper, Keeper]) -> None:
    """Its own key signs whatever it likes, but not away what others hold."""
    ours = told[0]
    found = judged(told, computed_anew(ours, edited(lines_of(ours)), 0, ours.signatory))
    bad = found.logs[0].report.first_bad
    assert bad is not None
    assert "agents-1 holds record" in bad.what
    assert "the log was computed anew, or forked" in bad.what


def test_a_cut_end_is_found_by_its_peers_alone(told: tuple[Keeper, Keeper]) -> None:
    """By itself the shorter log is right; beside a peer's it is not, and what is missing is named."""
    ours, _ = told
    lines = lines_of(ours)
    short = [lines[0], lines[1][:4]]
    disk = Both(ours)
    assert examine([laid_out(disk, ours, short)], ours.ca.bundle, disk=disk).is_right
    bad = judged(told, short).logs[0].report.first_bad
    assert bad is not None
    assert (bad.volume, bad.line) == (ours.paths[1].name, ours.notes[3].count)
    assert "the end of the log was cut off" in bad.what


def test_without_a_bundle_the_chain_is_judged_and_no_more(told: tuple[Keeper, Keeper]) -> None:
    """And the report says that no signature was checked."""
    disk = Both(*told)
    found = examine([Path("/tools-1")], None, disk=disk)
    assert found.is_right
    assert "no signature was checked" in found.logs[0].report.provable


def test_two_heads_of_one_place_are_a_fork_without_the_log(told: tuple[Keeper, Keeper]) -> None:
    """Two peers that were told two stories find out when they are laid side by side."""
    ours, peer = told
    other = Keeper("tools-2", ours.ca)
    double = Keeper(ca=ours.ca)
    double.signatory = ours.signatory
    head = Head(ours.notes[0].volume, ours.notes[0].count - 1, bytes(32))
    double.notes = [sign(ours.signatory, head, NOON)]
    other.keeps(double)
    found = examine([Path("/agents-1"), Path("/tools-2")], ours.ca.bundle, disk=Both(peer, other))
    assert [one.report.first_bad for one in found.logs] == [None, None]
    assert not found.is_right
    assert found.forks[0].startswith("tools-1 signed two logs: agents-1 holds record ")


def test_a_witness_that_nobody_signed_says_nothing(told: tuple[Keeper, Keeper]) -> None:
    """A peer cannot accuse a node of what it did not sign for."""
    ours, _ = told
    liar = Keeper("agents-1", ours.ca)
    liar.notes = [sign(liar.signatory, Head(ours.notes[0].volume, 99, bytes(32)), NOON)]
    false = Keeper("tools-1", ours.ca)
    false.notes, false.signatory = liar.notes, liar.signatory
    liar.keeps(false)
    found = examine([Path("/tools-1"), Path("/agents-1")], ours.ca.bundle, disk=Both(ours, liar))
    assert found.is_right


def test_a_folder_is_that_of_volumes_or_a_copy_of_a_whole_directory(tmp_path: Path) -> None:
    """Whatever was copied is found."""
    audit = tmp_path / "lib" / "audit"
    audit.mkdir(parents=True)
    assert {log_folder(one) for one in (tmp_path, tmp_path / "lib", audit)} == {audit}
    with pytest.raises(LocalError, match="holds no audit volumes"):
        examine([tmp_path], tiny_ca().bundle, disk=RealDisk())


def test_records_of_witnesses_stand_for_themselves_in_a_damaged_log(told: tuple[Keeper, Keeper]) -> None:
    """A peer whose own log is bad still holds what a node signed."""
    ours, peer = told
    disk = Both(ours, peer)
    path = Path("/agents-1", peer.paths[0].name)
    disk.put(path, b"garbage\n" + disk.content(path) + b'{"kind":"witness"}\n{"kind":"witness"\n')
    disk.put(Path("/tools-1", ours.paths[1].name), b"".join(lines_of(ours)[1][:4]))
    found = examine([Path("/tools-1"), Path("/agents-1")], ours.ca.bundle, disk=disk)
    assert [one.report.first_bad is not None for one in found.logs] == [True, True]
    assert Kind.WITNESS.encode() in disk.content(path)
