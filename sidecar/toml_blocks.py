"""Large TOML files, parsed a block at a time.

tomli is compiled, and keeps the interpreter from every other thread until it is done: over a second for 13 MiB. A
generated policy is nearly all arrays of tables of the top level, ``[[grants]]`` again and again, one entry after the
other. Such a run of entries is a document of its own, and the lists are put together afterwards.

What makes that safe:

1. A block begins at a line that is exactly such a header. In a multi-line string that line would be text, and what
   somebody put into a string would become a rule: a file with such strings is not for this module.
2. In an array that line would be a value, such as [[1]], and a comma or bracket comes after it. That stands in the
   block, before any other header, and is a fault of its syntax. So such a file is refused, never read as another one.
3. All other lines stay one document, in which the blocks are empty lines. A name that it defines and a block, too, is
   a fault, whatever TOML would say of the two.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

BLOCK_CHARS = 32_768

_HEADER = re.compile(r"(?m)^\[")
_ENTRY = re.compile(r"\[\[([A-Za-z0-9_-]+)\]\][ \t]*(?:#[^\n]*)?\r?$", re.MULTILINE)

Parse = Callable[[str, int], dict[str, Any]]
"""Parses a piece of the file that begins at this line, counted from 0; raises what it likes."""


def is_for_blocks(text: str) -> bool:
    """Whether rule 1 holds. A comment with three quotes counts as a string: then the file is read whole."""
    return '"""' not in text and "'''" not in text


def parse_blocks(text: str, parse: Parse) -> dict[str, Any] | str:
    """The tables of ``text``, or the name that is defined in two ways. Raises what ``parse`` raises."""
    rest: list[str] = []
    lists: dict[str, list[Any]] = {}
    line = 0
    for is_entries, piece in _pieces(text):
        lines = piece.count("\n")
        if is_entries:
            for name, rows in parse(piece, line).items():
                lists.setdefault(name, []).extend(rows)
            rest.append("\n" * lines)
        else:
            rest.append(piece)
        line += lines
    tables = parse("".join(rest), 0)
    twice = next((name for name in lists if name in tables), None)
    return {**tables, **lists} if twice is None else twice


def _pieces(text: str) -> Iterator[tuple[bool, str]]:
    """The text in pieces: whether it is entries of arrays and nothing else, and the piece itself."""
    start, kind = 0, False
    for header in _HEADER.finditer(text):
        at = header.start()
        is_entry = _ENTRY.match(text, at) is not None
        if at > start and (is_entry != kind or (kind and at - start >= BLOCK_CHARS)):
            yield kind, text[start:at]
            start = at
        kind = is_entry
    yield kind, text[start:]
