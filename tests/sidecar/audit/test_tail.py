import json

import pytest

from sidecar.audit.tail import Tail, follow
from sidecar.audit.volume import open_volume
from tests.auditlog import FOLDER, NOON, note, site, write_log, write_volume
from tests.faultdisk import FaultDisk


def whats(lines: list[bytes]) -> list[str]:
    bodies = [json.loads(line) for line in lines]
    return [body.get("what", body["kind"]) for body in bodies]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, []),
        (1, ["note 1"]),
        (3, ["volume", "note 0", "note 1"]),
        (4, ["note 2", "volume", "note 0", "note 1"]),
        (99, ["volume", "note 0", "note 1", "note 2", "volume", "note 0", "note 1"]),
    ],
)
def test_the_last_records_come_oldest_first(count: int, expected: list[str]) -> None:
    """Over the ends of volumes, as many as there are."""
    disk, _ = write_log(3, 2)
    assert whats(Tail(FOLDER, disk).last(count)) == expected


def test_a_line_under_way_is_not_shown() -> None:
    """Half a record is none."""
    disk, [path] = write_log(1)
    disk.put(path, disk.content(path) + b'{"half":')
    assert whats(Tail(FOLDER, disk).last(1)) == ["note 0"]


def test_an_empty_log_has_no_tail() -> None:
    """And what comes later is new."""
    disk = FaultDisk()
    disk.make_folder(FOLDER)
    tail = Tail(FOLDER, disk)
    assert tail.last(5) == tail.new() == []
    write_volume(disk, 1)
    assert whats(tail.new()) == ["volume", "note 0"]


def test_what_is_new_is_given_once() -> None:
    """From the end of the last call on, into volumes that began since."""
    disk, _ = write_log(1)
    volume = open_volume(site(disk), NOON, []).volume
    tail = Tail(FOLDER, disk)
    tail.last(1)
    assert tail.new() == []
    volume.append([note(1)])
    assert whats(tail.new()) == ["note 1"]
    volume.append([note(2)])
    write_volume(disk, 1)
    assert whats(tail.new()) == ["note 2", "volume", "note 0"]
    assert tail.new() == []


def test_a_reader_outlives_the_volume_it_was_reading() -> None:
    """Volumes expire under it."""
    disk, [first] = write_log(1)
    tail = Tail(FOLDER, disk)
    tail.last(1)
    write_volume(disk, 1)
    disk.remove(first)
    assert whats(tail.new()) == ["volume", "note 0"]


def test_a_follower_waits_when_there_is_nothing_new() -> None:
    """It never spins and never ends by itself."""
    disk, _ = write_log(1)
    volume = open_volume(site(disk), NOON, []).volume
    waits: list[int] = []

    def wait() -> None:
        waits.append(len(waits))
        volume.append([note(len(waits))])

    tail = Tail(FOLDER, disk)
    tail.last(0)
    following = follow(tail, wait)
    assert whats([next(following), next(following)]) == ["note 1", "note 2"]
    assert waits == [0, 1]
