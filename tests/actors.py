"""Processes that act on a word: each does one line of Python at a time, as whatever user it has become, where told."""

import subprocess
import sys
from types import TracebackType
from typing import Self

PROGRAM = """
import ctypes, os, signal, socket, struct, sys
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""
"""What an actor needs is imported while it may still read it."""


class Actor:
    """One process. Leaving the block kills it."""

    def __init__(self, *become: str) -> None:
        """``become`` is put before the command: another namespace, say."""
        self.process = subprocess.Popen(
            [*become, sys.executable, "-I", "-S", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def does(self, *lines: str) -> Self:
        """Back once all of them are done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        for line in lines:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            assert self.process.stdout.readline() == "done\n", line
        return self

    def becomes(self, uid: int) -> Self:
        return self.does(
            "os.setgroups([])", f"os.setresgid({uid}, {uid}, {uid})", f"os.setresuid({uid}, {uid}, {uid})"
        )

    def ends(self) -> None:
        """As by kill -9, and reaped."""
        self.process.kill()
        self.process.wait()
        for end in (self.process.stdin, self.process.stdout):
            if end is not None:
                end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ends()
