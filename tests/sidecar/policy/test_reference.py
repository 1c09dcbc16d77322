from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, get_args

import pytest
import tomli
from jsonschema import Draft202012Validator

from sidecar.policy.reference import key_tables, schema, schema_text
from sidecar.policy.tables.policy import PolicyTables
from sidecar.toml import Table
from tests.reference import PAGE, SCHEMA, page
from tests.sidecar.policy import test_blast, test_diff, test_explain
from tests.sidecar.policy.world import POLICY

ROOT = Path(__file__).parents[3]
SAMPLES = {
    "config": (ROOT / "config/policy.toml").read_text(),
    "small": POLICY,
    "http": test_explain.HTTP,
    "blast": test_blast.TEXT,
    "whole": test_diff.WHOLE,
}


def as_json(value: Any) -> Any:
    """A TOML value as an editor hands it to the schema: dates are text."""
    if isinstance(value, dict):
        return {key: as_json(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_json(one) for one in value]
    return value.isoformat() if isinstance(value, date) else value


def faults(text: str) -> list[str]:
    validator = Draft202012Validator(schema())
    return [error.message for error in validator.iter_errors(as_json(tomli.loads(text)))]


def test_page_and_schema_are_those_of_the_code() -> None:
    """`make reference` writes both."""
    assert page() == PAGE.read_text()
    assert schema_text() == SCHEMA.read_text()


def test_the_schema_is_one() -> None:
    """By its own dialect, and every reference in it leads somewhere."""
    made = schema()
    Draft202012Validator.check_schema(made)
    refs = {one["$ref"].removeprefix("#/$defs/") for one in nested(made) if "$ref" in one}
    assert refs <= made["$defs"].keys()


def nested(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for one in value.values():
            yield from nested(one)
    if isinstance(value, list):
        for one in value:
            yield from nested(one)


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_a_policy_is_one_by_the_schema(name: str) -> None:
    """The samples that are shipped, and all that tests load."""
    assert faults(SAMPLES[name]) == []


@pytest.mark.parametrize(
    ("good", "bad", "says"),
    [
        ("[services.wiki]", "[service.wiki]", "'service' was unexpected"),
        ("nodes = [", "node = [", "'node' was unexpected"),
        ('segment = "retrieval"', "", "'segment' is a required property"),
        ('"127.0.0.1:8001"', "8001", "8001 is not of type 'string'"),
        ('id = "read-wiki"', 'id = "Read wiki"', "'Read wiki' does not match"),
        ('services = ["wiki"]\n', 'services = "wiki"\n', "'wiki' is not of type 'array'"),
        ("listen = 15001", 'listen = 15001\ncallers = "kernle"', "'kernle' is not one of"),
        ("[services.wiki]", '[segments.own]\nclass = "read"\n[services.wiki]', "'stale-after' is a required"),
        (
            "[services.wiki]",
            '[segments.action]\nstale-after = "5 m"\n[services.wiki]',
            "'5 m' does not match",
        ),
    ],
)
def test_the_schema_finds_what_is_mistyped(good: str, bad: str, says: str) -> None:
    """While it is being typed; a preset's table may leave out what the preset has."""
    found = faults(POLICY.replace(good, bad, 1))
    assert len(found) == 1
    assert says in found[0]
    assert faults(POLICY + '[segments.action]\nmode = "observe"\n') == []


def tables(model: Any, seen: set[type[Table]]) -> set[type[Table]]:
    """Every table that the model of the file leads to."""
    if isinstance(model, type) and issubclass(model, Table):
        if model not in seen:
            seen.add(model)
            for field in model.model_fields.values():
                tables(field.annotation, seen)
    else:
        for one in get_args(model):
            tables(one, seen)
    return seen


def test_every_key_is_explained_in_the_page() -> None:
    """A key without a meaning is found by nobody."""
    rows = key_tables()
    for table in tables(PolicyTables, set()):
        for field in table.model_fields.values():
            assert field.description, f"{table.__name__}.{field.alias}"
            assert f"| `{field.alias}` |" in rows


def test_no_table_is_explained_twice() -> None:
    """Denies have the keys of grants."""
    assert "The same keys as `[[grants]]`." in key_tables()
    headings = [line for line in key_tables().splitlines() if line.startswith("#")]
    assert len(headings) == len(set(headings))


def test_the_line_for_editors_is_in_the_page() -> None:
    """And is a comment to everybody else."""
    assert "#:schema ./policy.schema.json" in PAGE.read_text()
    assert faults("#:schema ./policy.schema.json\n" + POLICY) == []
