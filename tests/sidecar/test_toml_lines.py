import re
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from sidecar import toml_lines
from sidecar.toml_lines import Path, key_lines

DOCUMENT = '''\
# [not.a.header]
top = 1
"quoted [key]" = "a # no comment"
dotted."inner.dot".leaf = """
[not.a.header] \\"""
fake = 1
"""
literal = \'\'\'
also = "fake"\'\'\'\'\'
list = [
  "[x]", # ]
  { a = 1, b = [
    2 ] },
]

[ table . 'sub' ]   # comment
key = 1979-05-27 07:32:00
[table]
late = 1.5

[[rows]]
a = 1

[[rows]]
a = 2
[rows.inner]
b = 3
[[rows.many]]
c = 4
[[rows.many]]
c = 5
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 1),
        (("top",), 2),
        (("quoted [key]",), 3),
        (("dotted", "inner.dot", "leaf"), 4),
        (("literal",), 8),
        (("list",), 10),
        (("table", "sub"), 16),
        (("table", "sub", "key"), 17),
        (("table",), 18),
        (("table", "late"), 19),
        (("rows",), 21),
        (("rows", 0), 21),
        (("rows", 0, "a"), 22),
        (("rows", 1), 24),
        (("rows", 1, "a"), 25),
        (("rows", 1, "inner"), 26),
        (("rows", 1, "inner", "b"), 27),
        (("rows", 1, "many", 0, "c"), 29),
        (("rows", 1, "many", 1, "c"), 31),
    ],
    ids=str,
)
def test_each_key_and_header_has_its_line(path: Path, line: int) -> None:
    """Strings, comments, brackets and arrays of tables do not lead the scanner astray."""
    tomli.loads(DOCUMENT)
    assert key_lines(DOCUMENT)[path] == line


def test_nothing_is_found_inside_strings_and_comments() -> None:
    """Text that only looks like a key or header has no line."""
    parts = {part for path in key_lines(DOCUMENT) for part in path}
    assert parts.isdisjoint({"not", "fake", "also", "x"})


keys = st.text(max_size=5) | st.sampled_from(["a", "b-c", "1", "d.e", "[", "]", "=", '"', "'", "#", "\n"])
values = st.integers() | st.booleans() | st.text(max_size=20) | st.just([1, [2, "]"]])
tables = st.dictionaries(keys, values | st.dictionaries(keys, values, max_size=3), max_size=4)


@given(tables, st.lists(tables, max_size=3))
def test_every_key_of_any_document_is_found_on_its_line(
    table: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    """Against documents whose lines are known because the test wrote them."""
    text, expected = written(table, rows)
    tomli.loads(text)
    assert {path: line for path, line in key_lines(text).items() if path in expected} == expected


def written(table: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[str, dict[Path, int]]:
    """A document of one table and one array of tables, and the line of each key in it."""
    lines: list[str] = []
    expected: dict[Path, int] = {}

    def write(header: str, path: Path, content: dict[str, Any]) -> None:
        lines.append(header)
        expected[path] = len(lines)
        for key, value in content.items():
            lines.append(f"{quote(key)} = {inline(value)}")
            expected[(*path, key)] = len(lines)

    write("[t]", ("t",), table)
    for index, row in enumerate(rows):
        write("[[r]]", ("r", index), row)
    expected |= {("r",): expected["r", 0]} if rows else {}
    return "\n".join(lines), expected


def quote(text: str) -> str:
    return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in text) + '"'


def inline(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return quote(value)
        case list():
            return f"[{', '.join(map(inline, value))}]"
        case dict():
            return f"{{{', '.join(f'{quote(k)} = {inline(v)}' for k, v in value.items())}}}"
        case _:
            return str(value)


@given(
    st.lists(
        st.sampled_from(
            [
                "[a]", "[[b]]", "[a.c]", '["q".x]', "[[b.d]]", " [ a . z ]", "k = 1", 'k2 = "x#y" # c', "k3 = [", '"x[",',
                "]", 'k4 = ["]"]', 'k5 = [ "]",', 'k6 = """', "text", '"""', "k7 = '''", "[x]", "'''", "# [x]", "",
                'k8 = { a = 1, b = ["x"] }', '"q k" = 2', "a.b.c = 3", "k9 = 'a' # '", 'k10 = "a\\"[b"', 'k13 = ""',
                'k12 = ["a", "b"]\r', "k14 = [[1],[2]]", 'k15="""x"""',
            ]
        ),
        max_size=9,
    )
)  # fmt: skip
def test_lines_that_are_plain_at_a_glance_are_read_as_all_others(rows: list[str]) -> None:
    """The shorter way finds what the longer one finds, in whatever is valid TOML."""
    text = "\n".join(rows)
    try:
        tomli.loads(text)
    except tomli.TOMLDecodeError:
        return
    found = key_lines(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(toml_lines, "_PLAIN", re.compile("(?!)"))
        assert key_lines(text) == found
