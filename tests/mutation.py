"""``python -m tests.mutation``: changes of the decision's code that no test of the policy notices, by mutmut.

Exit code 1 when one survives that is not explained here. An explanation is of a changed line as it would stand in the
file: when the line is edited, its mutants are looked at anew.
"""

import shutil
import subprocess
import sys

FALSY = "as good as False: it is only asked whether it is true"
UNREAD = "leaves() of operations alone reads neither services nor the end"
UNPLACED = "nobody reads it of a service that no policy knows"
EXPLAINED = {
    "return _first_allowed(Question(request, snapshot, moment, live=None).cases())[0]": FALSY,
    "cases = Question(request, snapshot, moment, live=None).cases()": FALSY,
    "self.request, self.snapshot, self.moment, None, facts, lock, agent, None, None, None, None": FALSY,
    'self.any: _Node[T] | None = ""': FALSY,
    "facts = self._facts(None)": UNPLACED,
    'facts = self._facts("XXXX")': f"{UNPLACED}; no segment can be called so",
    "return Narrowing(None, operations, Wall(0)).leaves(operation)": UNREAD,
    "return Narrowing(frozenset(), operations, None).leaves(operation)": UNREAD,
    "return Narrowing(frozenset(), operations, Wall(None)).leaves(operation)": UNREAD,
    "return Narrowing(frozenset(), operations, Wall(1)).leaves(operation)": UNREAD,
    "segments = service.segments if (service.operations) or True else (service.segment,)": (
        "a service without operations has its own segment alone; not asking is only faster"
    ),
    'yield step.__name__.strip("XX_XX"), decision': "no step's name begins or ends with X",
}
"""The line that a mutant puts in, and why the decision stays the same."""


def main() -> int:
    shutil.rmtree("mutants", ignore_errors=True)
    done = _mutmut("run", "--max-children", "2")
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        return 1
    survived = [line.split(":")[0].strip() for line in _mutmut("results").stdout.splitlines() if ": " in line]
    unexplained = [name for name in survived if not (_added(name) and _added(name) <= EXPLAINED.keys())]
    for name in unexplained:
        sys.stdout.write(_mutmut("show", name).stdout)
    total = done.stdout.rpartition("/")[2].partition(" ")[0]
    sys.stdout.write(f"{len(survived)} of {total} mutants survived, {len(unexplained)} unexplained\n")
    shutil.rmtree("mutants")
    return 1 if unexplained else 0


def _added(name: str) -> set[str]:
    lines = _mutmut("show", name).stdout.splitlines()
    return {line[1:].strip() for line in lines if line.startswith("+") and not line.startswith("+++")}


def _mutmut(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "mutmut", *words], capture_output=True, text=True, check=False
    )


if __name__ == "__main__":
    sys.exit(main())
