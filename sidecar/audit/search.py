"""The records of a log that are about a session, a trace or an agent, without decoding those that are not."""

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pki.clock import Wall
from pki.errors import LocalError
from pki.ids import is_id
from sidecar.audit.reading import is_since, lines_in, record_of
from sidecar.disk import Disk, RealDisk

MAX_FOUND = 200_000
"""Records of one story, for memory's sake."""

BEGINNING = Wall(0)

Found = dict[str, Any]


def story(folders: list[Path], word: str, disk: Disk | None = None, since: Wall = BEGINNING) -> list[Found]:
    """The records about ``word``, a session's or trace's id or an agent; those of each folder in the order of its log.

    With them come those of a session's children, of the sessions of a trace or agent, and of the locks and revocations
    that ended something. ``since``: only of sessions that have a record from then on, and those whole. Lines that
    cannot be read are passed over: `audit verify` names them. Raises LocalError.
    """
    disk = disk or RealDisk()
    about = _About(word, since)
    for one in _read(disk, folders, {word}):
        about.learn(one)
    return [one for one in _read(disk, folders, about.words) if about.takes(one)]


@dataclass
class _About:
    """What belongs to a story, and by which names."""

    word: str
    since: Wall

    def __post_init__(self) -> None:
        self._sessions: set[str] = set()
        self._statements: set[str] = set()

    @property
    def words(self) -> set[str]:
        return {self.word} | self._sessions | self._statements

    def learn(self, one: Found) -> None:
        if self._is_named(one) and is_since(one, self.since):
            self._sessions.add(_text(one, "session") or self.word)
            rule = _text(one, "rule")
            if is_id(rule):  # Of a lock or revocation; the policy's rules have names.
                self._statements.add(rule)

    def takes(self, one: Found) -> bool:
        if one.get("kind") in ("lock", "revocation"):
            return _text(one, "statement") in self._statements
        return _text(one, "session") in self._sessions or (self.since == BEGINNING and self._is_named(one))

    def _is_named(self, one: Found) -> bool:
        parents = one.get("parents")
        return (
            self.word in (one.get("session"), one.get("agent"))
            or (isinstance(parents, list) and self.word in parents)
            or self.word in _text(one, "trace").split("-")[1:2]
        )


def _read(disk: Disk, folders: list[Path], words: Set[str]) -> Iterator[Found]:
    wanted = re.compile(b"|".join(re.escape(one.encode()) for one in sorted(words)))
    count = 0
    for line in (line for folder in folders for line in lines_in(disk, folder) if wanted.search(line)):
        if (one := record_of(line)) is not None:
            count += 1
            yield one
        if count > MAX_FOUND:
            raise LocalError(f"more than {MAX_FOUND} records are about this; ask for one session of it")


def _text(one: Found, key: str) -> str:
    value = one.get(key, "")
    return value if isinstance(value, str) else ""
