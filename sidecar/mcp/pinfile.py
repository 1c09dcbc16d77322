"""The pins of a node on disk: lib/pins.json, whole or not at all. Blocking."""

from contextlib import suppress
from pathlib import Path

from pki.errors import LocalError, RemoteError
from sidecar.disk import Disk, write_durably
from sidecar.mcp import json
from sidecar.mcp.pins import Key, Pin
from sidecar.policy.model import Risk
from sidecar.policy.operation import Json

SCHEMA = 1
LIMITS = json.Limits(size=64 * 1024 * 1024, depth=4, strict=False)
_FIELDS = {"service", "tool", "approved", "seen", "risk"}


class PinFile:
    """One file. One writer at a time."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = path

    def read(self) -> dict[Key, Pin]:
        """What was kept; nothing where there is no file. Raises LocalError: a lost pin would be drift unseen."""
        try:
            size = self._disk.size(self._path)
            data = self._disk.read(self._path, 0, min(size, LIMITS.size + 1))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise LocalError(f"{self._path}: {error.strerror}") from None
        try:
            return _pins(json.parse(data, LIMITS))
        except (RemoteError, ValueError):
            what = "damaged; restore it, or remove it to pin the tools as they are seen next"
            raise LocalError(f"{self._path}: {what}") from None

    def write(self, pins: dict[Key, Pin]) -> None:
        """Keep these, durably; raises LocalError, and then the old ones are kept."""
        rows: list[Json] = [
            {
                "service": service,
                "tool": tool,
                "approved": pin.approved,
                "seen": pin.seen,
                "risk": pin.risk.value,
            }
            for (service, tool), pin in sorted(pins.items())
        ]
        made = self._path.with_suffix(".new")
        try:
            self._disk.make_folder(self._path.parent)
            with suppress(FileNotFoundError):
                self._disk.remove(made)
            file = self._disk.create(made)
            try:
                write_durably(file, json.render({"schema": SCHEMA, "pins": rows}))
            finally:
                file.close()
            self._disk.rename(made, self._path)
            self._disk.sync_folder(self._path.parent)
        except OSError as error:
            raise LocalError(f"{self._path}: {error.strerror or error}") from None


def _pins(value: Json) -> dict[Key, Pin]:
    """Raises ValueError for what :meth:`PinFile.write` never writes."""
    if (
        not isinstance(value, dict)
        or value.get("schema") != SCHEMA
        or not isinstance(value.get("pins"), list)
    ):
        raise ValueError("not a file of pins")
    pins: dict[Key, Pin] = {}
    for row in value["pins"] if isinstance(value["pins"], list) else []:
        texts = (
            {key: one for key, one in row.items() if isinstance(one, str)} if isinstance(row, dict) else {}
        )
        if texts.keys() != _FIELDS:
            raise ValueError("not a pin")
        pin = Pin(texts["approved"], texts["seen"], Risk(texts["risk"]))
        pins[texts["service"], texts["tool"]] = pin
    return pins
