import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import Wall
from pki.errors import LocalError
from sidecar.audit import record
from sidecar.audit.record import (
    ENVELOPE_BYTES,
    MAX_DEPTH,
    MAX_INTEGER,
    MAX_RECORD_BYTES,
    Answered,
    Caller,
    Ending,
    Facts,
    Kind,
    Record,
    Requested,
    Role,
    Ruling,
    Subject,
    Traffic,
    canonical,
)
from sidecar.reasons import Reason

AT = Wall(1_767_225_600_000_000)
STREAM = Subject(stream="s1", role=Role.TOOL, agent="researcher", service="wiki", segment="retrieval")
NO = Ruling(verdict="deny", reason=Reason.NO_GRANT, hint="no grant names vault")

keys = st.text(st.characters(max_codepoint=127), max_size=6)
integers = st.integers(-MAX_INTEGER, MAX_INTEGER)
scalars = (
    st.none() | st.booleans() | integers | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(keys, values, max_size=5)


def rfc8785(value: Any) -> str:
    """RFC 8785, section 3.2, for values without floats, written down from the RFC and not by json.dumps."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            short = {8: "\\b", 9: "\\t", 10: "\\n", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\"}
            escaped = (short.get(ord(c)) or (f"\\u{ord(c):04x}" if ord(c) < 32 else c) for c in value)
            return f'"{"".join(escaped)}"'
        case list():
            return f"[{','.join(map(rfc8785, value))}]"
        case _:
            in_order = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be"))
            return f"{{{','.join(f'{rfc8785(key)}:{rfc8785(item)}' for key, item in in_order)}}}"


@given(objects)
def test_canonical_form_is_rfc_8785(value: dict[str, Any]) -> None:
    """Within the limits of the schema, sorted compact JSON is what the RFC says."""
    try:
        form = canonical(value)
    except LocalError:
        assert depth(value) > MAX_DEPTH
    else:
        assert form == rfc8785(value).encode()
        assert json.loads(form) == value


def depth(value: Any) -> int:
    match value:
        case dict():
            return 1 + max(map(depth, value.values()), default=0)
        case list():
            return 1 + max(map(depth, value), default=0)
        case _:
            return 0


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(1.0, id="float"),
        pytest.param(float("nan"), id="nan"),
        pytest.param(MAX_INTEGER + 1, id="an integer that a double cannot hold"),
        pytest.param(-MAX_INTEGER - 1, id="or a negative one"),
        pytest.param("\ud800", id="lone surrogate"),
        pytest.param(b"bytes", id="bytes"),
        pytest.param({"é": 1}, id="key beyond ASCII"),
        pytest.param({1: 1}, id="key of another type"),
        pytest.param([[[[[[[[1]]]]]]]], id="too deep"),
    ],
)
def test_what_rfc_8785_would_spell_in_two_ways_is_refused(value: Any) -> None:
    """A record that two programs could spell differently is never made."""
    with pytest.raises(LocalError):
        Record(Kind.FINDING, AT, {"facts": value})


def test_plain_values_come_out_of_enums_and_tuples() -> None:
    """A reason is recorded as its text, a tuple as a list."""
    fields: dict[str, Any] = {"reason": Reason.LOCKED, "ids": ("a", "b"), "n": True}
    made = Record(Kind.CUT, AT, fields)
    assert made.fields == {"reason": "locked", "ids": ["a", "b"], "n": True}
    assert type(made.fields["reason"]) is str


def test_a_record_does_not_change_with_what_it_was_made_from() -> None:
    """Between its making and its writing nobody can reach in."""
    facts: dict[str, Any] = {"inner": {"list": [1]}}
    made = Record(Kind.FINDING, AT, facts)
    facts["inner"]["list"].append(2.5)
    facts["more"] = object()
    assert made.fields == {"inner": {"list": [1]}}


@pytest.mark.parametrize("key", ["schema", "kind", "at", "node", "seq", "chain"])
def test_no_caller_sets_what_places_a_record(key: str) -> None:
    """A forged place in the log cannot come in through the facts."""
    with pytest.raises(LocalError, match=key):
        Record(Kind.FINDING, AT, {key: 1})


def test_a_record_of_the_largest_size_still_fits_with_its_envelope() -> None:
    """The cap holds for the whole record, whatever its place."""
    empty = len('{"text":""}')
    made = record.Record(Kind.REVOCATION, AT, {"text": "x" * (MAX_RECORD_BYTES - ENVELOPE_BYTES - empty)})
    assert len(canonical(made.body("n" * 63, MAX_INTEGER))) <= MAX_RECORD_BYTES
    with pytest.raises(LocalError, match="over 65536 bytes"):
        Record(Kind.REVOCATION, AT, {"text": "x" * (MAX_RECORD_BYTES - ENVELOPE_BYTES - empty + 1)})


def test_every_record_has_its_place() -> None:
    """Schema, kind, time, node and seq stand in each, beside its own fields."""
    assert record.stop(AT, "SIGTERM").body("tools-1", 7) == {
        "schema": 1,
        "kind": "stop",
        "at": AT,
        "node": "tools-1",
        "seq": 7,
        "why": "SIGTERM",
    }


STREAM_FIELDS: dict[str, Any] = {
    "stream": "s1",
    "role": "tool",
    "agent": "researcher",
    "service": "wiki",
    "segment": "retrieval",
}
ASKED = Requested(request="r", operation={"method": "GET", "name": "/a"}, operation_class="read")
ASKED_FIELDS: dict[str, Any] = {
    "request": "r",
    "operation": {"method": "GET", "name": "/a"},
    "operation_class": "read",
}
NO_FIELDS: dict[str, Any] = {"verdict": "deny", "reason": "no_grant", "hint": "no grant names vault"}


@pytest.mark.parametrize(
    ("made", "kind", "fields"),
    [
        (record.volume(AT, "v.jsonl", None), "volume", {"volume": "v.jsonl", "previous": None}),
        pytest.param(
            record.volume(AT, "v", {"seq": 1}),
            "volume",
            {"volume": "v", "previous": {"seq": 1}},
            id="a volume that goes on",
        ),
        (
            record.admitted(AT, STREAM, Ruling(verdict="allow", rule="read-wiki", moment={"wall": 5})),
            "admitted",
            {**STREAM_FIELDS, "verdict": "allow", "rule": "read-wiki", "moment": {"wall": 5}},
        ),
        (record.opened(AT, STREAM), "opened", STREAM_FIELDS),
        (record.request(AT, STREAM, NO, ASKED), "request", {**STREAM_FIELDS, **NO_FIELDS, **ASKED_FIELDS}),
        pytest.param(
            record.request_denied(AT, STREAM, NO, ASKED),
            "denied",
            {**STREAM_FIELDS, **NO_FIELDS, **ASKED_FIELDS},
            id="denied request",
        ),
        (
            record.answered(
                AT, STREAM, Answered(request="r", status=200, latency=9, bytes_in=0, bytes_out=5)
            ),
            "answered",
            {**STREAM_FIELDS, "request": "r", "status": 200, "latency": 9, "bytes_in": 0, "bytes_out": 5},
        ),
        (record.denied(AT, STREAM, NO), "denied", {**STREAM_FIELDS, **NO_FIELDS}),
        pytest.param(
            record.denied(AT, STREAM, NO, Caller("uid", 0)),
            "denied",
            {**STREAM_FIELDS, **NO_FIELDS, "attribution": {"method": "uid", "uid": 0}, "uid": 0},
            id="denied to a known uid",
        ),
        pytest.param(
            record.denied(AT, STREAM, NO, Caller("kernel", None)),
            "denied",
            {**STREAM_FIELDS, **NO_FIELDS, "attribution": {"method": "kernel"}},
            id="denied to a dead caller",
        ),
        (
            record.closed(AT, STREAM, Traffic(0, 9)),
            "closed",
            {**STREAM_FIELDS, "bytes_in": 0, "bytes_out": 9},
        ),
        (
            record.cut(AT, STREAM, Ending(Reason.LOCKED, "lock-1"), Traffic(1, 2)),
            "cut",
            {**STREAM_FIELDS, "reason": "locked", "rule": "lock-1", "bytes_in": 1, "bytes_out": 2},
        ),
        (record.shed(AT, STREAM, Reason.LIMIT), "shed", {**STREAM_FIELDS, "reason": "limit"}),
        (
            record.session(AT, "started", "s", "a"),
            "session",
            {"what": "started", "session": "s", "agent": "a"},
        ),
        (
            record.lock(AT, "in_force", "id", "all", {"by": "alice"}),
            "lock",
            {"what": "in_force", "statement": "id", "target": "all", "by": "alice"},
        ),
        (
            record.revocation(AT, "in_force", "id", "session:s"),
            "revocation",
            {"what": "in_force", "statement": "id", "target": "session:s"},
        ),
        (record.policy(AT, "in_force", 3, "d"), "policy", {"what": "in_force", "sequence": 3, "digest": "d"}),
        (
            record.renewal(AT, "renewed", "spiffe://x/node/n", "0a", AT),
            "renewal",
            {"what": "renewed", "id": "spiffe://x/node/n", "serial": "0a", "not_after": AT},
        ),
        (record.reload(AT, "failed", {"why": "w"}), "reload", {"what": "failed", "why": "w"}),
        (record.finding(AT, "f"), "finding", {"what": "f"}),
        (record.recovery(AT, "r"), "recovery", {"what": "r"}),
        (record.start(AT, "0.1"), "start", {"version": "0.1"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_kind_holds_its_fields_and_leaves_out_the_unknown(
    made: Record, kind: str, fields: Facts
) -> None:
    """One table of what stands in a record of each kind."""
    assert made.kind == kind
    assert made.fields == fields


def test_folded_refusals_say_how_many_and_since_when() -> None:
    """One record stands for many: the last of them, their number and the time of the first."""
    refusal = record.denied(AT, STREAM, NO)
    assert record.folded(refusal, 7, Wall(5)).fields == {**refusal.fields, "count": 7, "since": 5}


def test_the_list_of_kinds_is_closed() -> None:
    """Kinds are part of the schema: a new one is a decision, not an accident."""
    assert [kind.value for kind in Kind] == [
        "volume",
        "admitted",
        "opened",
        "request",
        "answered",
        "denied",
        "closed",
        "cut",
        "shed",
        "session",
        "escalation",
        "lock",
        "revocation",
        "policy",
        "renewal",
        "rollover",
        "reload",
        "finding",
        "recovery",
        "start",
        "stop",
        "retention",
        "checkpoint",
        "witness",
    ]
