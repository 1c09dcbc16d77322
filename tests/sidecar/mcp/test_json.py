import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pki.errors import RemoteError
from sidecar.mcp.json import ANSWER, EXACT, Limits, canonical, digest, parse, render
from sidecar.policy.operation import Json

TINY = Limits(size=40, depth=3)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-EXACT, EXACT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(
            st.tuples(st.text(st.characters(exclude_categories=["Cs"])), inner),
            max_size=4,
            unique_by=lambda pair: pair[0].casefold(),
        ).map(dict)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "Expecting value"),
        (b" ", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a":1', "Expecting ',' delimiter"),
        (b'{"a":1} {"a":1}', "Extra data"),
        (b"1 2", "Extra data"),
        (b"01", "Extra data"),
        (b"1\x00", "Extra data"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b"[\x00]", "Expecting value"),
        (b'"\xff"', "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'"\xc0\x80"', "not UTF-8"),
        (b'"\\ud800"', "half of a character"),
        (b'"\\uDC00"', "half of a character"),
        (b'{"\\ud83d": 1}', "half of a character"),
        (b'"a\nb"', "Invalid control character"),
        (b"'a'", "Expecting value"),
        (b"{a:1}", "Expecting property name"),
        (b"[1,]", "Expecting value|Illegal trailing comma"),
        (b"//\n1", "Expecting value"),
        (b"NaN", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b'{"a": Infinity}', "Infinity is not JSON"),
        (b'{"a":1,"a":2}', "a key twice"),
        (b'{"a":1,"\\u0061":2}', "a key twice"),
        (b'{"a":{"b":[{"c":1,"c":1}]}}', "a key twice"),
        (b'{"amount":1,"Amount":2}', "differ in case only"),
        ('{"k":1,"\u212a":2}'.encode(), "differ in case only"),
        (b"9007199254740992", "an integer over 2"),
        (b"-9007199254740992", "an integer over 2"),
        (b"1" * 5000, "a number of over 128 characters"),
        (b"0." + b"1" * 5000, "a number of over 128 characters"),
        (b"1e400", "no double holds"),
        (b"-1e400", "no double holds"),
    ],
)
def test_what_two_readers_could_differ_on_is_refused(data: bytes, why: str) -> None:
    """Every refusal says what is wrong, and none repeats the bytes."""
    with pytest.raises(RemoteError, match=why):
        parse(data)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b' {"a" : [1, 2.5, true, null] } \r\n', {"a": [1, 2.5, True, None]}),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\\\\ud800"', "\\ud800"),
        (b"9007199254740991", EXACT),
        (b"-0", 0),
        (b"1e-400", 0.0),
        (b'"[[[[[["', "[[[[[["),
        (b'["\\"[[[[", "{{{{"]', ['"[[[[', "{{{{"]),
    ],
)
def test_what_has_one_reading_is_read(data: bytes, value: Json) -> None:
    """Spacing and escapes do not change a value."""
    assert parse(data, Limits(size=100, depth=2)) == value


def test_the_size_is_capped_before_anything_is_decoded() -> None:
    """One byte more than the limit is refused, whatever it is."""
    assert parse(b" " * 39 + b"1", TINY) == 1
    with pytest.raises(RemoteError, match="over 40 bytes"):
        parse(b"\xff" * 41, TINY)


def test_the_depth_is_capped_before_anything_is_parsed() -> None:
    """A parser that recurses never sees what would end its stack."""
    assert parse(b"[[[]]]", TINY) == [[[]]]
    assert parse(b"[[],[],[],[]]", TINY) == [[], [], [], []]
    for data in (b"[[[[]]]]", b'{"a":{"a":{"a":{}}}}', b"[[[[[["):
        with pytest.raises(RemoteError, match="deeper than 3"):
            parse(data, TINY)
    with pytest.raises(RemoteError, match="deeper than"):
        parse(b"[" * 1_000_000)


def test_the_number_of_values_is_capped_before_anything_is_parsed() -> None:
    """Four megabytes of small lists would be a hundred of objects. What stands in a string is none."""
    few = Limits(size=1000, depth=9, values=5)
    assert parse(b'[1,[],"[,,{,,]"]', few) == [1, [], "[,,{,,]"]
    for data in (b"[1,2,3,4,5]", b"[[],[],[],[]]", b"""{"a":1,"b":[2,{}]}""", b",,,,,"):
        with pytest.raises(RemoteError, match="more than 5 values"):
            parse(data, few)
    with pytest.raises(RemoteError, match="more than"):
        parse(b"[],".join([b""] * 1_000_000))


def test_a_tool_may_use_numbers_and_names_that_a_caller_may_not() -> None:
    """Schemas say more than arguments; a key twice is refused in both."""
    assert parse(b'{"a":18446744073709551615,"A":1}', ANSWER) == {"a": 18446744073709551615, "A": 1}
    with pytest.raises(RemoteError, match="a key twice"):
        parse(b'{"a":1,"a":1}', ANSWER)


@given(VALUES)
def test_what_is_forwarded_reads_as_what_was_decided_on(value: Json) -> None:
    """Our own reader and Python's plain one get the same value back from our spelling, which is ASCII."""
    spelled = render(value)
    assert parse(spelled) == value
    assert json.loads(spelled) == value
    assert spelled.isascii()


@given(VALUES)
def test_the_canonical_spelling_does_not_depend_on_the_order_of_keys(value: Json) -> None:
    """So neither does the digest."""
    assert digest(value) == digest(_backwards(value))
    assert parse(canonical(value)) == value


def test_the_digest_is_that_of_rfc_8785_for_what_both_can_spell() -> None:
    """Sorted keys, no spaces, characters as they are."""
    assert canonical({"b": [1, True, None], "a": "é\n"}) == '{"a":"é\\n","b":[1,true,null]}'.encode()


@given(st.binary() | st.text('[]{}:,"\\ud8eE+-.0123456789ntfINa \n').map(str.encode))
@example(b'"' + b'\\"' * 50_000)
@example(b"[" * 50_000)
def test_any_bytes_are_a_value_or_the_one_error(data: bytes) -> None:
    """Nothing else is raised; and what is accepted, Python's plain reader accepts and reads alike."""
    try:
        value = parse(data)
    except RemoteError:
        return
    assert json.loads(data) == value


def _backwards(value: Json) -> Json:
    match value:
        case dict():
            return {key: _backwards(value[key]) for key in reversed(value)}
        case list():
            return [_backwards(one) for one in value]
        case _:
            return value
