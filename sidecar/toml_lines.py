"""The line of every table header and key of a TOML file.

tomli gives positions for syntax errors only. This scanner runs after tomli, so it may rely on the text being valid
TOML: it needs to know strings, comments and brackets only to step over them. What stands inside a value has the
line of its key.
"""

import re
from collections.abc import Iterator, Mapping

import tomli

Path = tuple[str | int, ...]
"""Where a value is: keys, and indexes of arrays of tables."""


def key_lines(text: str) -> dict[Path, int]:
    """The line of every header and key in ``text``, which is valid TOML; ``()`` is the file itself, line 1."""
    lines: dict[Path, int] = {(): 1}
    last: dict[Path, int] = {}
    table: Path = ()
    for line, tokens in _statements(text):
        if tokens[0] != "[":
            path = table + _key(tokens, "=")
        elif tokens[1] != "[":
            path = table = _resolve(_key(tokens[1:], "]"), last)
        else:
            parts = _key(tokens[2:], "]")
            array = (*_resolve(parts[:-1], last), parts[-1])
            last[array] = last.get(array, -1) + 1
            path = table = (*array, last[array])
        for length in range(1, len(path) + 1):
            lines.setdefault(path[:length], line)
        lines[path] = line
    return lines


_TOKEN = re.compile(
    r'''
    (?P<newline>\n)
  | (?P<blank>[ \t\r]+|\#[^\n]*)
  | (?P<text>"""(?:\\.|[^\\])*?"{3,5}|\'{3}.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')
  | (?P<mark>[\[\]{}=,.])
  | (?P<bare>[^\s\[\]{}=,.\#"']+)
    ''',
    re.VERBOSE | re.DOTALL,
)


# A whole line that says at a glance what it is: nothing, a header, or a pair of a bare key and a value without escapes.
_PLAIN = re.compile(
    r"""[ \t]*+(?:
        (?P<key>[A-Za-z0-9_-]++)[ \t]*+=(?P<value>(?:[^"'\#\n]|"[^"\\\n]*+"(?!")|'[^'\n]*+'(?!'))*+)
      | (?P<header>\[\[?)(?P<name>[A-Za-z0-9_.-]++)\]\]?[ \t]*+
    )?+(?:\#[^\n]*+)?\r?\n""",
    re.VERBOSE,
)
_STRING = re.compile(r""""[^"\n]*"|'[^'\n]*'""")


def _statements(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each header or pair: its first line and its first tokens, all of its key among them."""
    text += "\n"
    line, at = 1, 0
    while at < len(text):
        plain = _PLAIN.match(text, at)
        if plain and _is_one_line(plain["value"]):
            at, ends = plain.end(), line + 1
            tokens = _tokens(plain)
        else:
            at, ends, tokens = _statement(text, at, line)
        if tokens:
            # A statement begins at its first token: what is before it are blanks and comments, without a newline.
            yield line, tokens
        line = ends


def _is_one_line(value: str | None) -> bool:
    """Whether the brackets of a value end where its line does."""
    if value is None or not ("[" in value or "{" in value):
        return True
    bare = _STRING.sub("", value)
    return bare.count("[") == bare.count("]") and bare.count("{") == bare.count("}")


def _tokens(plain: re.Match[str]) -> list[str]:
    if key := plain["key"]:
        return [key, "="]
    if not plain["header"]:
        return []
    return [*plain["header"], *plain["name"].split("."), *("]" for _ in plain["header"])]


def _statement(text: str, at: int, line: int) -> tuple[int, int, list[str]]:
    """Where the statement that begins at ``at`` ends, the line after it, and its tokens.

    Newlines in brackets and strings do not end one.
    """
    depth = 0
    tokens: list[str] = []
    for match in _TOKEN.finditer(text, at):
        piece, kind = match[0], match.lastgroup
        line += piece.count("\n")
        if kind == "newline" and depth == 0:
            return match.end(), line, tokens
        if kind not in ("newline", "blank"):
            tokens.append(piece)
            if kind == "mark":
                depth += (piece in "[{") - (piece in "]}")
    return len(text), line, tokens


def _key(tokens: list[str], end: str) -> Path:
    parts = [part for part in tokens[: tokens.index(end)] if part != "."]
    return tuple(tomli.loads(f"k={part}")["k"] if part[0] in "\"'" else part for part in parts)


def _resolve(parts: Path, last: Mapping[Path, int]) -> Path:
    """The path of a header; a part that names an array of tables means its latest table (TOML 1.0)."""
    path: Path = ()
    for part in parts:
        path = (*path, part)
        if path in last:
            path = (*path, last[path])
    return path
