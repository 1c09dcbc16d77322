"""Work that grows with what others send is done beside the loop: 4 MiB of `[]` take Python's parser most of a second."""

from collections.abc import Callable
from typing import TypeVar

import trio

HERE_BYTES = 16 * 1024
"""Of input that is worked on at once: some 3 ms at worst."""

T = TypeVar("T")

_limiter = trio.CapacityLimiter(2)


async def aside(work: Callable[[], T], size: int) -> T:
    """What ``work`` gives, for an input of ``size`` bytes. It must touch nothing that the loop changes."""
    if size <= HERE_BYTES:
        return work()
    return await trio.to_thread.run_sync(work, limiter=_limiter)
