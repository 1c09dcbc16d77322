import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import Wall
from pki.errors import RemoteError
from sidecar.audit import record
from sidecar.audit.chain import (
    GENESIS,
    MAX_LINE_BYTES,
    Broken,
    Head,
    Previous,
    VolumeCheck,
    link,
    seal,
    start,
    unseal,
)
from sidecar.audit.record import canonical

NAME = "20260101T000000Z-00000000.jsonl"
AT = Wall(1_767_225_600_000_000)


def line_of(text: str | bytes, chain: str = "0" * 64) -> bytes:
    """A line whose record is spelled as ``text``, without LF."""
    body = text.encode() if isinstance(text, str) else text
    return body[:-1] + f',"chain":"{chain}"}}'.encode()


def volume_lines(notes: int = 3, previous: Previous = None) -> list[bytes]:
    """A right volume, without LFs."""
    header = record.volume(AT, NAME, None if previous is None else previous.facts())
    chain, lines = start(previous), []
    for seq, one in enumerate([header, *(record.finding(AT, f"note {n} \u2028é") for n in range(notes))]):
        line, chain = seal(chain, one.body("tools-1", seq))
        lines.append(line[:-1])
    return lines


def first_bad(lines: list[bytes]) -> int | None:
    """Index of the first bad line."""
    volume = VolumeCheck(NAME)
    for index, line in enumerate(lines):
        try:
            volume.feed(line)
        except RemoteError:
            return index
    return None


def test_a_line_is_the_record_with_its_chain_value_at_the_end() -> None:
    """Written out once by hand: the format is documented and other programs check it."""
    line, chain = seal(GENESIS, {"schema": 1, "kind": "stop", "at": 5, "node": "n", "seq": 0, "why": "x"})
    text = b'{"at":5,"kind":"stop","node":"n","schema":1,"seq":0,"why":"x"}'
    assert chain == hashlib.sha256(bytes(32) + text).digest() == link(GENESIS, text)
    assert line == text[:-1] + b',"chain":"' + chain.hex().encode() + b'"}\n'
    sealed = unseal(line[:-1])
    assert (sealed.canonical, sealed.chain, sealed.body["why"]) == (text, chain, "x")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x00" * 100, id="lost pages"),
        pytest.param(b'{"schema":1}', id="no chain value"),
        pytest.param(line_of('{"schema":1}', "A" * 64), id="upper-case hex"),
        pytest.param(line_of('{"schema":1}', "0" * 63), id="short chain value"),
        pytest.param(line_of('{"schema":1}') + b"\r", id="CRLF"),
        pytest.param(line_of('{"schema":1}') + b" ", id="trailing bytes"),
        pytest.param(b" " + line_of('{"schema":1}'), id="leading bytes"),
        pytest.param(line_of('{"schema": 1}'), id="space"),
        pytest.param(line_of('{"schema":1,"a":2}'), id="keys out of order"),
        pytest.param(line_of('{"schema":1,"schema":1}'), id="duplicate key"),
        pytest.param(line_of('{"a":"\\u0041","schema":1}'), id="needless escape"),
        pytest.param(line_of('{"a":"\\ud800","schema":1}'), id="lone surrogate"),
        pytest.param(line_of(b'{"a":"\xff","schema":1}'), id="not UTF-8"),
        pytest.param(line_of('{"a":1.0,"schema":1}'), id="float"),
        pytest.param(line_of('{"a":1e3,"schema":1}'), id="exponent"),
        pytest.param(line_of('{"a":NaN,"schema":1}'), id="nan"),
        pytest.param(line_of(f'{{"a":{"9" * 5000},"schema":1}}'), id="endless integer"),
        pytest.param(line_of(f'{{"a":{2**53},"schema":1}}'), id="large integer"),
        pytest.param(line_of(f'{{"a":{"[" * 30_000}{"]" * 30_000},"schema":1}}'), id="deep"),
        pytest.param(line_of('{"chain":1,"schema":1}'), id="two chain values"),
        pytest.param(line_of('{"schema":2}'), id="another schema"),
        pytest.param(line_of('{"schema":true}'), id="a schema that is one only to Python"),
        pytest.param(line_of('{"a":"' + "x" * MAX_LINE_BYTES + '","schema":1}'), id="too long"),
        pytest.param(line_of("{}"), id="no fields"),
    ],
)
def test_a_record_has_one_spelling_only(line: bytes) -> None:
    """Whatever a parser would forgive is a fault: forgiven bytes could be changed unseen."""
    with pytest.raises(RemoteError):
        unseal(line)


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda data: line_of(b"{" + data + b"}")))
def test_any_bytes_give_a_record_or_a_remote_error(data: bytes) -> None:
    """A log is read by others' machines: nothing in it may crash them."""
    try:
        sealed = unseal(data)
    except RemoteError:
        return
    assert canonical(sealed.body) == sealed.canonical


def test_a_right_volume_checks() -> None:
    """Header and records are right, whatever Unicode calls a line end inside of them."""
    lines = volume_lines()
    volume = VolumeCheck(NAME)
    bodies = [volume.feed(line).body for line in lines]
    assert [body["seq"] for body in bodies] == [0, 1, 2, 3]
    assert volume.head == Head(NAME, 3, unseal(lines[-1]).chain)
    assert volume.previous is None


LINES = volume_lines()


@given(st.data())
def test_any_changed_byte_is_found_at_its_line(data: st.DataObject) -> None:
    """Every byte counts, those of the chain value too, and the first bad line is the changed one."""
    index = data.draw(st.integers(0, len(LINES) - 1))
    at = data.draw(st.integers(0, len(LINES[index]) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda new: new != LINES[index][at]))
    changed = LINES[index][:at] + bytes([byte]) + LINES[index][at + 1 :]
    assert first_bad([*LINES[:index], changed, *LINES[index + 1 :]]) == index


@pytest.mark.parametrize("index", range(3))
def test_a_removed_line_is_found_where_it_is_missing(index: int) -> None:
    """The line that stands in its place is the first bad one."""
    assert first_bad(LINES[:index] + LINES[index + 1 :]) == index


@pytest.mark.parametrize(("one", "other"), [(a, b) for a in range(4) for b in range(a + 1, 4)])
def test_swapped_lines_are_found_at_the_first_of_them(one: int, other: int) -> None:
    """Each line is bound to its place."""
    lines = list(LINES)
    lines[one], lines[other] = lines[other], lines[one]
    assert first_bad(lines) == one


@pytest.mark.parametrize("index", range(4))
def test_an_inserted_line_is_found(index: int) -> None:
    """A second copy of a right line is one line too many."""
    assert first_bad([*LINES[: index + 1], LINES[index], *LINES[index + 1 :]]) == index + 1


def test_a_removed_last_line_cannot_be_found_by_the_chain() -> None:
    """Stands here so that nobody believes otherwise: only heads kept elsewhere show it."""
    assert first_bad(LINES[:-1]) is None


def forged(seq: int, fields: dict[str, Any], previous: bytes = GENESIS) -> bytes:
    body = {"schema": 1, "at": 5, "node": "n", "seq": seq, **fields}
    return seal(previous, body)[0][:-1]


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"kind": "stop"}, "is not a header"),
        ({"kind": "volume", "volume": "other"}, "another volume"),
        ({"kind": "volume", "volume": NAME, "previous": {}}, "goes on from"),
        (
            {"kind": "volume", "volume": NAME, "previous": {"volume": "v", "seq": 1, "chain": "zz"}},
            "goes on from",
        ),
        ({"kind": "volume", "volume": NAME, "previous": 5}, "goes on from"),
        ({"kind": "volume", "volume": NAME, "previous": None, "seq": 1}, "record 1 stands where record 0"),
        ({"kind": "volume", "volume": NAME, "previous": None, "seq": True}, "no place"),
        ({"kind": "volume", "volume": NAME, "previous": None, "seq": "0"}, "no place"),
    ],
)
def test_a_header_that_is_right_in_itself_may_still_be_wrong(fields: dict[str, Any], what: str) -> None:
    """A volume says which one it is and what it goes on from."""
    with pytest.raises(RemoteError, match=what):
        VolumeCheck(NAME).feed(forged(0, fields))


def test_a_second_header_is_a_fault() -> None:
    """Two volumes glued together are not one."""
    volume = VolumeCheck(NAME)
    chain = volume.feed(LINES[0]).chain
    header = forged(1, {"kind": "volume", "volume": NAME, "previous": None}, chain)
    with pytest.raises(RemoteError, match="second header"):
        volume.feed(header)


@pytest.mark.parametrize(
    ("previous", "begins"),
    [(None, GENESIS), (Head("v", 9, b"\xab" * 32), b"\xab" * 32), (Broken("v", "why"), GENESIS)],
)
def test_a_volume_builds_on_what_its_header_names(previous: Previous, begins: bytes) -> None:
    """The chain goes on over the end of a volume, or says that it could not."""
    assert start(previous) == begins
    volume = VolumeCheck(NAME)
    for line in volume_lines(1, previous):
        volume.feed(line)
    assert volume.previous == previous
    assert (
        link(begins, unseal(volume_lines(0, previous)[0]).canonical)
        == unseal(volume_lines(0, previous)[0]).chain
    )


def test_the_end_of_a_volume_is_checked_without_its_beginning() -> None:
    """The last line must fit the one before it, which is taken for right."""
    volume = VolumeCheck(NAME, after=unseal(LINES[-2]))
    volume.feed(LINES[-1])
    assert volume.head == Head(NAME, 3, unseal(LINES[-1]).chain)
    with pytest.raises(RemoteError, match="record 3 stands where record 2 belongs"):
        VolumeCheck(NAME, after=unseal(LINES[-3])).feed(LINES[-1])


def test_a_changed_value_with_a_right_spelling_is_found_by_its_chain_value() -> None:
    """It is the digest that finds it, not the parser."""
    body = json.loads(LINES[1])
    del body["chain"]
    body["what"] = "note 9"
    line = line_of(canonical(body), unseal(LINES[1]).chain.hex())
    volume = VolumeCheck(NAME)
    volume.feed(LINES[0])
    with pytest.raises(RemoteError, match="does not fit"):
        volume.feed(line)
