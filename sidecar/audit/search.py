"""The records of a log that are about a session or a trace, without decoding those that are not."""

import json
import re
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pki.errors import LocalError, RemoteError
from pki.ids import is_id
from sidecar.audit.lines import extent, forward
from sidecar.audit.volume import volume_names
from sidecar.disk import Disk, RealDisk

MAX_FOUND = 200_000
"""Records of one story, for memory's sake."""

Found = dict[str, Any]


def story(folders: list[Path], word: str, disk: Disk | None = None) -> list[Found]:
    """The records about ``word``, a session's id or a trace's; those of each folder in the order of its log.

    With them come those of a session's children, of a trace's sessions, and of the locks and revocations that ended
    something. Lines that cannot be read are passed over: `audit verify` names them. Raises LocalError.
    """
    disk = disk or RealDisk()
    about = _About(word)
    for one in _read(disk, folders, {word}):
        about.learn(one)
    return [one for one in _read(disk, folders, about.words) if about.takes(one)]


@dataclass
class _About:
    """What belongs to a story, and by which names."""

    word: str

    def __post_init__(self) -> None:
        self._sessions: set[str] = set()
        self._statements: set[str] = set()

    @property
    def words(self) -> set[str]:
        return {self.word} | self._sessions | self._statements

    def learn(self, one: Found) -> None:
        if self._is_named(one):
            self._sessions.add(_text(one, "session") or self.word)
            rule = _text(one, "rule")
            if is_id(rule):  # Of a lock or revocation; the policy's rules have names.
                self._statements.add(rule)

    def takes(self, one: Found) -> bool:
        if one.get("kind") in ("lock", "revocation"):
            return _text(one, "statement") in self._statements
        return self._is_named(one) or _text(one, "session") in self._sessions

    def _is_named(self, one: Found) -> bool:
        parents = one.get("parents")
        return (
            one.get("session") == self.word
            or (isinstance(parents, list) and self.word in parents)
            or self.word in _text(one, "trace").split("-")[1:2]
        )


def _read(disk: Disk, folders: list[Path], words: Set[str]) -> Iterator[Found]:
    wanted = re.compile(b"|".join(re.escape(one.encode()) for one in sorted(words)))
    count = 0
    for line in (line for folder in folders for line in _lines(disk, folder) if wanted.search(line)):
        try:
            one = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(one, dict):
            count += 1
            yield one
        if count > MAX_FOUND:
            raise LocalError(f"more than {MAX_FOUND} records are about this; ask for one session of it")


def _lines(disk: Disk, folder: Path) -> Iterator[bytes]:
    try:
        names = volume_names(disk, folder)
        if not names:
            raise LocalError(f"{folder}: holds no volume of an audit log")
        for name in names:
            with suppress(RemoteError):  # a damaged compressed volume: as far as it goes
                yield from forward(disk, folder / name, 0, extent(disk, folder / name).complete)
    except OSError as error:
        raise LocalError(f"{folder}: {error.strerror}") from None


def _text(one: Found, key: str) -> str:
    value = one.get(key, "")
    return value if isinstance(value, str) else ""
