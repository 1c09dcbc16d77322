from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.audit import lines
from sidecar.audit.chain import MAX_LINE_BYTES
from sidecar.audit.lines import Extent, backward, extent, forward
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
