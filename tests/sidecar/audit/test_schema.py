import json
from dataclasses import fields
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sidecar.audit import schema
from sidecar.audit.chain import GENESIS, seal
from sidecar.audit.record import Kind, Record, Role, Subject, folded, opened, request_denied, shed
from sidecar.reasons import Reason
from tests.reference import AUDIT_PAGE, AUDIT_SCHEMA, audit_page
from tests.sidecar.audit.made import ASKED, AT, MADE, NO, STREAM

VALIDATOR = Draft202012Validator(schema.schema())


def line_of(record: Record) -> dict[str, Any]:
    line, _ = seal(GENESIS, record.body("tools-1", 3))
    body: dict[str, Any] = json.loads(line)
    return body


def test_the_shipped_schema_and_page_are_those_of_the_code() -> None:
    """`make reference` was run."""
    assert AUDIT_SCHEMA.read_text() == schema.schema_text()
    assert AUDIT_PAGE.read_text() == audit_page()


def test_the_schema_is_a_schema() -> None:
    """Of the dialect that it names."""
    Draft202012Validator.check_schema(schema.schema())


def test_every_field_that_a_record_is_made_from_has_a_meaning() -> None:
    """None can be added in the code alone."""
    assert {one.name for part in schema.PARTS for one in fields(part)} <= schema.FIELDS.keys()
    assert schema.SHAPES.keys() == set(Kind)


@pytest.mark.parametrize("record", MADE, ids=[f"{number} {one.kind}" for number, one in enumerate(MADE)])
def test_each_kind_of_record_is_valid(record: Record) -> None:
    """As it stands in the log."""
    VALIDATOR.validate(line_of(record))


def test_a_folded_refusal_is_valid() -> None:
    """It has two fields more, whatever it is of."""
    VALIDATOR.validate(line_of(folded(request_denied(AT, STREAM, NO, ASKED), 7, AT)))
    VALIDATOR.validate(line_of(folded(shed(AT, STREAM, Reason.LIMIT), 7, AT)))


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"stream": "no id"},
        {"role": "other"},
        {"schema": 2},
        {"kind": "unheard_of"},
        {"seq": -1},
        {"chain": "A" * 64},
        {"at": 1.5},
    ],
    ids=str,
)
def test_what_no_record_of_a_stream_holds_is_invalid(change: dict[str, Any]) -> None:
    """The schema says no as well as yes."""
    good = line_of(opened(AT, Subject(stream=STREAM.stream, role=Role.TOOL)))
    assert VALIDATOR.is_valid(good)
    assert not VALIDATOR.is_valid(good | change)


@pytest.mark.parametrize("value", [1.5, 2**53, [2**53], {"deep": {"float": 0.1}}], ids=str)
def test_a_fact_that_canonical_json_could_spell_twice_is_invalid(value: Any) -> None:
    """Also where the fields of an event are its own affair."""
    good = line_of(Record(Kind.FINDING, AT, {"what": "f"}))
    assert not VALIDATOR.is_valid(good | {"fact": value})
