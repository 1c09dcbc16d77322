from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import RemoteError
from sidecar.audit import lines
from sidecar.audit.chain import MAX_LINE_BYTES
from sidecar.audit.lines import Extent, backward, extent, forward, is_packed, packed_path
from tests.faultdisk import FaultDisk

PATH = Path("/log")

small = st.binary(max_size=20).map(lambda data: data.replace(b"\n", b"\x85"))
# About as long as a block, so that lines begin and end on either side of its borders.
large = st.tuples(st.integers(-2, 2), st.sampled_from([1, 2])).map(
    lambda n: b"x" * (lines._BLOCK * n[1] + n[0])
)
files = st.lists(small | large, max_size=5)


def disk_of(content: bytes) -> FaultDisk:
    disk = FaultDisk()
    disk.put(PATH, content)
    return disk


@given(files, small | large)
def test_lines_are_the_same_forwards_and_backwards(whole: list[bytes], torn: bytes) -> None:
    """Both directions split at LF alone, and clip what is too long."""
    content = b"".join(line + b"\n" for line in whole)
    disk = disk_of(content + torn)
    clipped = [line[:MAX_LINE_BYTES] for line in whole]
    assert extent(disk, PATH) == Extent(len(content), len(torn))
    assert list(forward(disk, PATH, 0, len(content))) == clipped
    assert list(backward(disk, PATH, len(content))) == clipped[::-1]


def test_reading_goes_on_from_the_end_of_a_line() -> None:
    """A follower reads only what is new to it."""
    assert list(forward(disk_of(b"one\ntwo\nthree\n"), PATH, 4, 8)) == [b"two"]
    assert list(backward(disk_of(b"one\ntwo\nthree\n"), PATH, 8)) == [b"two", b"one"]


@pytest.mark.parametrize("content", [b"", b"torn"])
def test_a_file_may_hold_no_line(content: bytes) -> None:
    """What no LF ends is not a line."""
    disk = disk_of(content)
    assert extent(disk, PATH) == Extent(0, len(content))
    assert list(forward(disk, PATH, 0, 0)) == list(backward(disk, PATH, 0)) == []


def test_the_newest_line_is_found_without_reading_the_file() -> None:
    """`audit tail` costs the same for a volume of any size."""

    class Counting(FaultDisk):
        taken = 0

        def read(self, path: Path, offset: int, size: int) -> bytes:
            data = super().read(path, offset, size)
            self.taken += len(data)
            return data

    disk = Counting()
    disk.put(PATH, b"line\n" * (lines._BLOCK * 4))
    assert next(backward(disk, PATH, extent(disk, PATH).complete)) == b"line"
    assert disk.taken <= 2 * lines._BLOCK


def packed(content: bytes) -> FaultDisk:
    """A disk with the content in its compressed form only."""
    disk = FaultDisk()
    disk.put(packed_path(PATH), zstandard.ZstdCompressor(write_checksum=True).compress(content))
    return disk


@given(files, small | large)
def test_a_compressed_volume_has_the_same_lines_at_the_same_places(whole: list[bytes], torn: bytes) -> None:
    """A reader's place stays its place."""
    content = b"".join(line + b"\n" for line in whole)
    plain, disk = disk_of(content + torn), packed(content + torn)
    start = content.find(b"\n") + 1
    end = len(content)
    assert extent(disk, PATH) == extent(plain, PATH)
    assert list(forward(disk, PATH, start, end)) == list(forward(plain, PATH, start, end))
    assert list(backward(disk, PATH, end)) == list(backward(plain, PATH, end))


def test_a_volume_that_is_compressed_while_it_is_read_is_read_on() -> None:
    """At the same byte."""
    content = b"".join(b"%d\n" % n for n in range(lines._BLOCK // 2))
    disk = disk_of(content)
    reader = forward(disk, PATH, 0, len(content))
    found = [next(reader)]
    disk.put(packed_path(PATH), zstandard.compress(content))
    disk.remove(PATH)
    assert [*found, *reader] == content.splitlines()
    assert is_packed(disk, PATH)


def test_a_volume_that_is_nowhere_is_an_os_error() -> None:
    """Never an empty one."""
    for attempt in (is_packed, extent):
        with pytest.raises(FileNotFoundError):
            attempt(FaultDisk(), PATH)


def test_a_bomb_is_unpacked_in_sips(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MiB of zeros take 2 KiB on disk, and a fraction of themselves in memory."""
    disk = packed(bytes(64 * 1024 * 1024))
    assert max(map(len, lines.unpacked(disk, PATH))) <= 32 * 1024 * 1024
    monkeypatch.setattr(lines, "MAX_BACKWARD_BYTES", 1_000)
    with pytest.raises(RemoteError, match="are read backwards"):
        next(backward(packed(b"x" * 2_000 + b"\n"), PATH, 2_001))


def test_a_frame_that_asks_for_much_memory_is_refused() -> None:
    """Its window is bounded before anything is unpacked."""
    wide = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    disk = FaultDisk()
    frame = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    disk.put(packed_path(PATH), frame.compress(b"line\n") + frame.flush())
    with pytest.raises(RemoteError, match="damaged"):
        list(forward(disk, PATH, 0, 5))
