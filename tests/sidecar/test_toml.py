from contextlib import suppress
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from pki.clock import HOUR, MINUTE, SECOND
from pki.errors import ConfigError, Fault
from sidecar.address import Address
from sidecar.toml import (
    AddressField,
    Document,
    Duration,
    Name,
    NotStrict,
    Table,
    between,
    did_you_mean,
    load_toml,
    quoted,
)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Inner(Table):
    later: ClassVar = frozenset({"tomorrow"})

    class_: str = ""
    half_close: Annotated[Duration, between(SECOND, HOUR)] = MINUTE


class Row(Table):
    id: Name
    tags: Annotated[tuple[Name, ...], NotStrict] = ()


class Whole(Table):
    name: Name = "a"
    where: Annotated[AddressField, Field(validate_default=True)] = Address("localhost", 1)
    count: Annotated[int, Field(ge=1, le=9)] = 1
    ratio: float = 0.5
    flag: bool = False
    colour: Annotated[Colour, NotStrict] = Colour.RED
    size: Literal["s", "m"] = "s"
    inner: Inner = Inner()
    maybe: Inner | None = None
    by_name: dict[Name, Inner] = Field(default_factory=dict)
    rows: Annotated[tuple[Row, ...], NotStrict] = ()


def load(text: str) -> Whole:
    return load_toml(text.encode(), "f.toml", Whole)


def faults_of(data: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_toml(data if isinstance(data, bytes) else data.encode(), "f.toml", Whole)
    assert str(caught.value).splitlines() == list(map(str, caught.value.faults))
    return [str(fault) for fault in caught.value.faults]


def test_a_file_becomes_its_model() -> None:
    """Keys in kebab-case, durations in microseconds, addresses and enums as values, arrays as tuples."""
    whole = load(
        """
        where = "[::1]:7443"
        colour = "blue"
        inner = { class = "x", half-close = "30s" }
        by-name.n = {}
        rows = [{ id = "r", tags = ["t"] }]
        """
    )
    assert (whole.where, whole.colour) == (Address("::1", 7443), Colour.BLUE)
    assert (whole.inner.class_, whole.inner.half_close) == ("x", 30 * SECOND)
    assert whole.by_name == {"n": Inner()}
    assert [(row.id, row.tags) for row in whole.rows] == [("r", ("t",))]


def test_an_empty_file_is_all_defaults() -> None:
    """Nothing has to be said twice."""
    assert load("") == Whole()


def test_every_fault_is_reported_at_once_and_in_order() -> None:
    """One run of a command shows all there is to mend, each with its line."""
    text = """\
nmae = "x"
count = 0
flag = "yes"
[[rows]]
id = "UPPER"
tags = ["ok", 7]
[[rows]]
tags = 5
[inner]
half-close = "2h"
"""
    assert faults_of(text) == [
        'f.toml:1 nmae: unknown key (did you mean "name"?)',
        "f.toml:2 count: must be at least 1",
        "f.toml:3 flag: must be true or false",
        'f.toml:5 rows[0].id: "UPPER" is not a name (1 to 63 of a-z, 0-9 and inner hyphens)',
        "f.toml:6 rows[0].tags[1]: must be a string",
        "f.toml:7 rows[1].id: is missing",
        "f.toml:8 rows[1].tags: must be a list",
        "f.toml:10 inner.half-close: must be from 1s to 1h",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name = 1", "f.toml:1 name: must be a string"),
        ("count = '1'", "f.toml:1 count: must be an integer"),
        ("count = true", "f.toml:1 count: must be an integer"),
        ("count = 10", "f.toml:1 count: must be at most 9"),
        ("ratio = nan", "f.toml:1 ratio: Input should be a finite number"),
        ("flag = 1", "f.toml:1 flag: must be true or false"),
        ("colour = 'green'", "f.toml:1 colour: must be one of 'red' or 'blue'"),
        ("size = 'l'", "f.toml:1 size: must be one of 's' or 'm'"),
        ("inner = 1", "f.toml:1 inner: must be a table"),
        ("by-name = 1", "f.toml:1 by-name: must be a table"),
        ("rows = 1", "f.toml:1 rows: must be a list"),
        ("where = 1", 'f.toml:1 where: must be a string "host:port"'),
        (
            "where = 'nowhere'",
            'f.toml:1 where: "nowhere" is not "host:port" (IPv6 in brackets, port 1 to 65535)',
        ),
        ("inner.half-close = 5", 'f.toml:1 inner.half-close: must be a duration such as "30s", "5m" or "1h"'),
        (
            "inner.half-close = '5'",
            'f.toml:1 inner.half-close: must be a duration such as "30s", "5m" or "1h"',
        ),
    ],
)
def test_each_wrong_type_is_said_in_the_words_of_the_file(text: str, fault: str) -> None:
    """No message speaks of Python or of a schema."""
    assert faults_of(text) == [fault]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("half_close = 1", "f.toml:1 half_close: unknown key (known: "),
        ("[inner]\nhalf_close = '1s'", 'f.toml:2 inner.half_close: unknown key (did you mean "half-close"?)'),
        ("[maybe]\nhalf_close = '1s'", 'f.toml:2 maybe.half_close: unknown key (did you mean "half-close"?)'),
        ("by-name.n.clas = 1", 'f.toml:1 by-name.n.clas: unknown key (did you mean "class"?)'),
        ("[[rows]]\nid = 'a'\nzzz = 1", "f.toml:3 rows[0].zzz: unknown key (known: id, tags)"),
        ("inner.tomorrow = 1", "f.toml:1 inner.tomorrow: not enforced by this version (remove it, "),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(text: str, fault: str) -> None:
    """A misspelt key that is silently ignored is a limit that silently does not hold."""
    [said] = faults_of(text)
    assert said.startswith(fault)


def test_a_bad_name_of_a_table_is_found_at_its_header() -> None:
    """The name is the fault, not what stands below it."""
    assert faults_of('[by-name."N\\n"]\nclass = "x"') == [
        'f.toml:1 by-name.N\\n: "N\\n" is not a name (1 to 63 of a-z, 0-9 and inner hyphens)'
    ]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"a = 1\nb = \n", "f.toml:2: column 5: Invalid value"),
        (b"a = 1\na = 2\n", "f.toml:2: column 6: Cannot overwrite a value"),
        (b"a = 1\nb = '\xff'\n", "f.toml:2: not UTF-8"),
        (b"a = " + b"[" * 2_000, "f.toml: nested too deep"),
        (b"a = " + b"9" * 5_000, "f.toml: a number is too long"),
        (b"a = 1\n" + b"a." * 20 + b"b = 1", "f.toml:2: a key of more than 16 parts"),
        (b"[" + b'"a" . ' * 20 + b"b]", "f.toml:1: a key of more than 16 parts"),
        (b"x = {" + b"'a'." * 20 + b"b = 1}", "f.toml:1: a key of more than 16 parts"),
        (b"#" * 2**20 + b"#", "f.toml: 1048577 bytes, at most 1048576 are read"),
    ],
    ids=["syntax", "twice", "utf8", "deep", "digits", "long-key", "long-header", "long-inline-key", "size"],
)
def test_what_is_not_toml_we_read_is_one_fault(data: bytes, fault: str) -> None:
    """Syntax, encoding, size and whatever else tomli raises, or would spend half a minute on."""
    [said] = faults_of(data)
    assert said.startswith(fault)


def test_the_search_for_long_keys_takes_linear_time() -> None:
    """A megabyte of nearly-keys is read as fast as any other."""
    for filler in ("a" * 10, "a ", '"', "'a' ", "a.a = ", "[", "[a."):
        data = (filler * (2**20 // len(filler))).encode()
        with suppress(ConfigError):
            load_toml(data, "f.toml", Whole)


def test_a_limit_can_be_raised() -> None:
    """Generated files are larger than hand-written ones."""
    assert load_toml(b"#" * (2**20 + 1), "f.toml", Whole, limit=2**21) == Whole()


def test_a_quotation_is_one_short_printable_line() -> None:
    """A file's text cannot write to the terminal of whom it is shown."""
    assert quoted("a\x1b[31m\n" + "b" * 200) == '"a\\x1b[31m\\n' + "b" * 69 + '"'


def test_nothing_near_gives_no_hint() -> None:
    """A wrong suggestion is worse than none; so is one that takes minutes to find."""
    assert did_you_mean("zzz", ["wiki"]) == ""
    assert did_you_mean("wikki", ["wiki"]) == 'did you mean "wiki"?'
    assert did_you_mean("wikki", ["wiki", *map(str, range(2_000))]) == ""
    assert did_you_mean("w" * 81, ["w" * 80]) == ""


@given(st.binary(max_size=200) | st.text(alphabet="[]{}=.\"#\na1 '\\,", max_size=80).map(str.encode))
def test_any_bytes_are_a_model_or_a_config_error(data: bytes) -> None:
    """No file ends in a traceback."""
    with suppress(ConfigError):
        load_toml(data, "f.toml", Whole)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.times(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "class", "x"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["name", "where", "inner", "by-name", "rows", "flag", "maybe"]), json))
def test_any_tables_are_a_model_or_faults_with_a_place(tables: dict[str, object]) -> None:
    """Whatever pydantic finds wrong has a line and a key."""
    faults: tuple[Fault, ...] = ()
    try:
        Document("f.toml", tables, {(): 1}).load(Whole)
    except ConfigError as error:
        faults = error.faults
    assert all(fault.where.startswith("f.toml:1 ") and fault.what for fault in faults)
