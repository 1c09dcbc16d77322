"""The audit log, with somebody who listens to what the data path writes."""

from collections.abc import Callable
from typing import Protocol

from sidecar.audit.record import Record


class Recorder(Protocol):
    """The log itself."""

    @property
    def available(self) -> bool: ...

    def append(self, record: Record) -> None: ...

    async def commit(self, record: Record) -> None: ...


class Overheard:
    """``log``, as it is; ``tell`` is told of each record first."""

    def __init__(self, log: Recorder, tell: Callable[[Record], None]) -> None:
        self._log = log
        self._tell = tell

    @property
    def available(self) -> bool:
        return self._log.available

    def append(self, record: Record) -> None:
        self._tell(record)
        self._log.append(record)

    async def commit(self, record: Record) -> None:
        self._tell(record)
        await self._log.commit(record)
