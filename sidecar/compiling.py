"""Reading a policy in a thread, beside a loop that goes on.

A thread of Python gives way to others every few milliseconds, with two exceptions that a large policy would run into,
for seconds each: a full collection of garbage looks at every object that there is, and a large policy is millions of
them. None of these is ever garbage in a cycle. So collection rests while a large policy is read, and what is there
afterwards is left alone for good (gc.freeze); it is freed all the same when nothing refers to it any more.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sidecar.defaults import TOML_BYTES
from sidecar.policy.load import load_policy
from sidecar.policy.model import Policy

TURN_SECONDS = 0.001
"""How long this thread keeps the interpreter while the loop waits for it; the usual is 5 ms."""


def load_aside(text: bytes, name: str, limit: int) -> Policy:
    """As :func:`sidecar.policy.load.load_policy`, in a thread; one at a time."""
    if len(text) <= TOML_BYTES:
        return load_policy(text, name, limit)
    with _considerate():
        return load_policy(text, name, limit)


@contextmanager
def _considerate() -> Iterator[None]:
    usual = sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(TURN_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)
        gc.freeze()
        gc.enable()
