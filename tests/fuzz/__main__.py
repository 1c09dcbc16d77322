"""``python -m tests.fuzz [SECONDS]``: coverage-guided fuzzing of every target, each in a process of its own.

``python -m tests.fuzz --target NAME [libFuzzer's options]`` runs one of them here. A crash leaves its input in a file
that libFuzzer names; put it into a test before mending what it found.
"""

import subprocess
import sys

import atheris

with atheris.instrument_imports(include=["pki", "sidecar"]):
    from tests.fuzz.targets import TARGETS, run

MAX_INPUT_BYTES = 4_096
DEFAULT_SECONDS = 30


def fuzz(name: str, options: list[str]) -> None:
    """Does not return: libFuzzer ends the process."""
    atheris.Setup([sys.argv[0], f"-max_len={MAX_INPUT_BYTES}", *options], lambda data: run(name, data))
    atheris.Fuzz()


def fuzz_all(seconds: int) -> int:
    """0 when no target crashed."""
    failed = []
    for name in TARGETS:
        command = [sys.executable, "-m", "tests.fuzz", "--target", name, f"-max_total_time={seconds}"]
        done = subprocess.run([*command, "-verbosity=0"], check=False)
        sys.stdout.write(f"{name}: {'crashed' if done.returncode else f'{seconds} s without a crash'}\n")
        sys.stdout.flush()
        failed += [name] if done.returncode else []
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--target"]:
        fuzz(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(fuzz_all(int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_SECONDS))
