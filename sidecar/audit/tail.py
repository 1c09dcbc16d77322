"""The newest records, as the lines that stand in the log, without reading all of it."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from sidecar.audit.lines import backward, extent, forward
from sidecar.audit.volume import volume_names
from sidecar.disk import Disk, RealDisk


class Tail:
    """A reader's place in the log in ``folder``. Lines come whole, without LF, unchecked. Raises OSError."""

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self._folder = folder
        self._disk = disk or RealDisk()
        self._volume = ""
        self._offset = 0

    def last(self, count: int) -> list[bytes]:
        """The last ``count`` lines, oldest first; `new` goes on after them."""
        found: list[bytes] = []
        for name in reversed(volume_names(self._disk, self._folder)):
            path = self._folder / name
            end = extent(self._disk, path).complete
            if not found:
                self._volume, self._offset = name, end
            found += islice(backward(self._disk, path, end), count - len(found))
            if len(found) == count:
                break
        return found[::-1]

    def new(self) -> list[bytes]:
        """The lines since the last call, over the ends of volumes."""
        found: list[bytes] = []
        names = volume_names(self._disk, self._folder)
        for name in names[names.index(self._volume) if self._volume in names else 0 :]:
            path = self._folder / name
            end = extent(self._disk, path).complete
            found += forward(self._disk, path, self._offset if name == self._volume else 0, end)
            self._volume, self._offset = name, end
        return found


def follow(tail: Tail, wait: Callable[[], None]) -> Iterator[bytes]:
    """Every line from ``tail``'s place on, for ever; calls ``wait`` when there is none left to give."""
    while True:
        yield from tail.new()
        wait()
