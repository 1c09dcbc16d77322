from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import LocalError
from sidecar.disk import RealDisk
from sidecar.mcp.pinfile import PinFile
from sidecar.mcp.pins import Pin
from sidecar.policy.model import Risk

PINS = {("wiki", "get"): Pin("a", "b", Risk.HIGH), ("wiki", "büro"): Pin("c", "c")}
KEYS = st.tuples(
    st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))
)
DIGESTS = st.text("0123456789abcdef", min_size=1)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    """Also over an older file, and over what a crash left of a newer one; nothing where there was none."""
    file = PinFile(RealDisk(), tmp_path / "lib" / "pins.json")
    assert file.read() == {}
    file.write({})
    (tmp_path / "lib" / "pins.new").write_bytes(b"half a fi")
    file.write(PINS)
    assert file.read() == PINS
    assert [path.name for path in (tmp_path / "lib").iterdir()] == ["pins.json"]


@given(st.dictionaries(KEYS, st.builds(Pin, DIGESTS, DIGESTS, st.sampled_from(Risk))))
def test_any_pins_survive(tmp_path_factory: pytest.TempPathFactory, pins: dict[tuple[str, str], Pin]) -> None:
    """Whatever a server calls its tools."""
    file = PinFile(RealDisk(), tmp_path_factory.mktemp("pins") / "pins.json")
    file.write(pins)
    assert file.read() == pins


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b'{"schema":2,"pins":[]}',
        b'{"schema":1,"pins":{}}',
        b'{"schema":1,"pins":[7]}',
        b'{"schema":1,"pins":[{"service":"a"}]}',
        b'{"schema":1,"pins":[{"service":"a","tool":"b","approved":"c","seen":"d","risk":"none"}]}',
        b'{"schema":1,"pins":[{"service":"a","tool":"b","approved":1,"seen":"d","risk":"low"}]}',
        b'{"schema":1,"pins":[]} ',
    ],
)
def test_a_damaged_file_is_not_an_empty_one(tmp_path: Path, data: bytes) -> None:
    """Who damages it must not have every tool pinned anew."""
    (tmp_path / "pins.json").write_bytes(data.rstrip() + b"," if data.endswith(b" ") else data)
    with pytest.raises(LocalError, match="damaged"):
        PinFile(RealDisk(), tmp_path / "pins.json").read()


def test_a_disk_that_fails_is_said_to(tmp_path: Path) -> None:
    """On both ways."""
    with pytest.raises(LocalError, match="directory"):
        PinFile(RealDisk(), tmp_path).read()
    (tmp_path / "file").touch()
    with pytest.raises(LocalError, match=r"directory|exists"):
        PinFile(RealDisk(), tmp_path / "file" / "pins.json").write({})
