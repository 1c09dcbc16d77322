"""What a log collector is given: compared with golden files, which were read beside the schema of OCSF 1.3.0."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.audit import ocsf
from sidecar.audit.chain import GENESIS, seal
from sidecar.audit.ocsf import event_of
from sidecar.audit.record import Kind, Record
from tests.sidecar.audit.made import MADE

GOLDEN = Path(__file__).with_name("golden.ocsf.json")
CHAIN = "00" * 32


def line_of(record: Record) -> dict[str, Any]:
    line, _ = seal(GENESIS, record.body("tools-1", 3))
    body: dict[str, Any] = json.loads(line)
    return {**body, "chain": CHAIN}


def events() -> list[dict[str, Any]]:
    """Those of one record of each kind."""
    made = [(line, event_of(line, "{}")) for line in map(line_of, MADE)]
    return [event for _, event in made if event is not None]


def test_events_are_those_of_the_golden_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes one sees what a collector would."""
    monkeypatch.setattr(ocsf, "VERSION", "0")
    assert events() == json.loads(GOLDEN.read_text())


def test_each_event_is_of_a_class_and_says_so_throughout() -> None:
    """Class, category, activity and type agree, as the schema computes them."""
    for one in events():
        assert one["type_uid"] == one["class_uid"] * 100 + one["activity_id"]
        assert one["category_uid"] == one["class_uid"] // 1000
        assert one["type_name"] == f"{one['class_name']}: {one['activity_name']}"
        assert one["metadata"]["version"] == "1.3.0"
        assert one["time"] == 1_767_225_600_000
        assert {"severity_id", "status_id", "raw_data"} <= one.keys()


@pytest.mark.parametrize(
    ("class_uid", "required"),
    [
        (4001, {"dst_endpoint", "connection_info"}),
        (6003, {"actor", "api", "src_endpoint"}),
        (3003, {"user"}),
        (3005, {"user", "privileges"}),
        (2004, {"finding_info"}),
    ],
)
def test_what_the_schema_requires_is_there(class_uid: int, required: set[str]) -> None:
    """Of each class that is used."""
    found = [one for one in events() if one["class_uid"] == class_uid]
    assert found
    assert all(required <= one.keys() for one in found)


def test_the_logs_own_records_are_no_events() -> None:
    """Nor is what is no record."""
    kinds = {one["metadata"]["event_code"] for one in events()}
    assert kinds == {str(one) for one in Kind} - {"volume", "checkpoint", "witness"}
    assert event_of({"kind": 5}, "") is None


def test_a_refusal_is_denied_and_says_by_what() -> None:
    """Action, reason, rule and hint stand where collectors look for them."""
    [one] = [one for one in events() if one["message"].startswith("denied") and one["class_uid"] == 4001]
    assert (one["action"], one["status_code"], one["status"]) == ("Denied", "no_grant", "Failure")
    assert one["authorizations"] == [{"decision": "deny"}]
    assert one["status_detail"] == "no grant names vault"


if __name__ == "__main__":  # writes the golden file anew
    setattr(ocsf, "VERSION", "0")  # noqa: B010 - as the test has it
    GOLDEN.write_text(json.dumps(events(), indent=2, sort_keys=True) + "\n")
