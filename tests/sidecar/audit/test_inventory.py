from typing import Any

import pytest

from pki.errors import LocalError
from sidecar.audit import inventory
from sidecar.audit.inventory import STREAM, Inventory, Line, shape, unused


def record(kind: str, **fields: Any) -> dict[str, Any]:
    base = {"agent": "researcher", "service": "wiki", "segment": "retrieval", "operation_class": "read"}
    return {"kind": kind, **base, **fields}


def request(name: str, path: str = "/api/pages/1", **more: Any) -> dict[str, Any]:
    return record("request", request=name, operation={"method": "GET", "name": path}, **more)


def taken(*records: dict[str, Any]) -> Inventory:
    found = Inventory()
    for one in records:
        found.take(one)
    return found


def test_requests_of_one_kind_are_one_line() -> None:
    """With how often, since when, how much, and which rules let it through."""
    found = taken(
        request("a", at=5, rule="read", verdict="allow"),
        record("answered", request="a", bytes_in=1, bytes_out=20),
        request("b", "/api/pages/2", at=9, rule="lease", verdict="allow"),
        request("c", "/api/pages/3", at=7, verdict="would_deny"),
        record("denied", at=11, operation={"method": "GET", "name": "/api/pages/4"}, count=3),
        record("answered", request="nobody's", bytes_in=9),
        record("finding"),
    )
    assert found.lines == [
        Line(
            *("researcher", "wiki", "GET /api/pages/*", "retrieval", "read"),
            allowed=2, would_deny=1, denied=3, first=5, last=11, bytes_in=1, bytes_out=20, rules={"read", "lease"},
        )
    ]  # fmt: skip
    assert not found.lines[0].is_covered
    assert found.rules == {"read", "lease"}
    assert unused(["read", "write"], found) == ["write"]


def test_a_stream_is_counted_once() -> None:
    """Both its nodes have it on record."""
    both = record("admitted", stream="s", at=1, rule="use", verdict="allow")
    [line] = taken(both, both, record("closed", stream="s", bytes_in=3, bytes_out=4)).lines
    assert (line.operation, line.allowed, line.bytes_in, line.bytes_out) == (STREAM, 1, 3, 4)
    assert line.is_covered


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/pages", "/api/pages"),
        ("/api/pages/17/edit", "/api/pages/*/edit"),
        ("/u/3f2504e0-4f89-11d3-9a0c-0305e82c3301", "/u/*"),
        ("/c0ffee12", "/*"),
        ("/cafe", "/cafe"),
        ("/x/report-20261201.pdf", "/x/*"),
        ("/", "/"),
        ("/a//b/", "/a//b/"),
    ],
)
def test_what_names_one_thing_is_a_wildcard(path: str, expected: str) -> None:
    """As a rule would have it."""
    assert shape(path) == expected
    assert shape(expected) == expected


def test_tools_and_uris_stand_as_they_are() -> None:
    """They are few, and a rule names them."""
    call = {"method": "tools/call", "name": "get_ticket"}
    assert taken(record("request", request="a", operation=call)).lines[0].operation == "tools/call get_ticket"
    listing = {"method": "tools/list", "name": ""}
    assert taken(record("request", request="a", operation=listing)).lines[0].operation == "tools/list"


def test_what_is_told_apart_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do about it."""
    monkeypatch.setattr(inventory, "MAX_LINES", 2)
    monkeypatch.setattr(inventory, "MAX_STREAMS", 2)
    with pytest.raises(LocalError, match="--since"):
        taken(*(record("denied", service=f"s{number}") for number in range(3)))
    with pytest.raises(LocalError, match="--since"):
        taken(*(record("admitted", stream=f"s{number}") for number in range(3)))
