"""`lockgate session start --export DIR`: hold a session, and keep its files fresh, until told to stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pki.errors import RefusedError, UnreachableError
from sidecar.become import run_as
from sidecar.control.client import Held
from sidecar.session.export import Exported, ExportFolder

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Stopped(Exception):  # noqa: N818 - an event, not an error
    """A signal said that it is enough."""


class Export:
    """One session, held, with its files."""

    def __init__(self, held: Held, folder: Path) -> None:
        self.held = held
        self._folder = ExportFolder(folder.absolute())
        self._uid = int(held.first["uid"])
        self._wrote = False

    @property
    def started(self) -> dict[str, Any]:
        """What the daemon said, less what stands in the files."""
        return {
            name: value for name, value in self.held.first.items() if name not in ("svid", "key", "bundle")
        }

    def run(self, ready: Callable[[], None]) -> None:
        """Write, call ``ready``, and follow each renewal; returns when stopped.

        Raises RefusedError when the session ended, UnreachableError when the daemon did.
        """
        try:
            with _stopping():
                self._write(self.held.first)
                ready()
                for news in self.held.more():
                    if "ended" in news:
                        raise RefusedError(f"session {self.held.first['session']}: ended ({news['ended']})")
                    self._write(news)
                raise UnreachableError(
                    f"session {self.held.first['session']}: the daemon is gone, and with it the session"
                )
        except _Stopped:
            pass
        finally:
            self.held.close()
            if self._wrote:  # A folder that was refused is not touched.
                run_as(self._uid, self._remove)

    def _write(self, news: dict[str, Any]) -> None:
        exported = Exported(news["svid"], news["key"], news["bundle"])

        def work() -> bytes:
            self._folder.write(exported)
            return b""

        run_as(self._uid, work)
        self._wrote = True

    def _remove(self) -> bytes:
        self._folder.remove()
        return b""


@contextmanager
def _stopping() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Stopped

    kept = {number: signal.signal(number, stop) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
