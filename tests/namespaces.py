"""Network namespaces of their own, so that no test touches the machine's network. They take root and iproute2."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000


@contextmanager
def network_namespace(suffix: str = "") -> Iterator[str]:
    """The name of one with a loopback and nothing else; skips the test where none can be made."""
    name = f"lockgate-test-{os.getpid()}{suffix}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
    try:
        ip(f"-n {name} link set lo up")
        yield name
    finally:
        ip(f"netns del {name}")


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Put this thread into the namespace until the end of the block; sockets it makes there stay there."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as home, Path("/run/netns", name).open() as there:
        assert libc.setns(there.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def ip(words: str) -> None:
    """Run ip."""
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)
