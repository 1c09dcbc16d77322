"""The CA's own keys: from half of its life on, each is named with what to do."""

from itertools import count
from pathlib import Path

import pytest

from pki.authority.ages import days, key_ages, overdue
from pki.authority.keystore import create
from pki.clock import DAY, Wall
from pki.spiffe import SpiffeId
from tests.authority import NOW

NUMBERS = count(1)


def entropy(size: int) -> bytes:
    return (1 << 150 | next(NUMBERS) << 8).to_bytes(20)[-size:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create(tmp_path / "ca", SpiffeId.for_ca("example.org", "main"), None, NOW, entropy)
    return tmp_path / "ca"


@pytest.mark.parametrize(
    ("age", "due"),
    [
        (0, []),
        (44, []),
        (46, ["issuer", "statement", "tls"]),
        (91, ["issuer", "statement", "tls"]),
        (1826, ["root", "issuer", "statement", "tls"]),
    ],
)
def test_a_key_wants_a_successor_from_half_of_its_life(folder: Path, age: int, due: list[str]) -> None:
    """90 days for what is online, ten years for the root; the sentence says how to go on."""
    now = Wall(NOW + age * DAY)
    assert [one.part for one in key_ages(folder) if one.is_due(now)] == due
    said = overdue(folder, now)
    assert [f"the {part} key" in line for part, line in zip(due, said, strict=True)] == [True] * len(due)
    assert all("lockgate ca rotate prepare" in line for line in said)
    assert [line.endswith("--key root") for line in said] == [part == "root" for part in due]


def test_an_expired_key_has_no_days_left(folder: Path) -> None:
    """Never less than none."""
    issuer = key_ages(folder)[1]
    assert days(issuer, Wall(NOW + 89 * DAY)) == 1
    assert days(issuer, Wall(NOW + 100 * DAY)) == 0
