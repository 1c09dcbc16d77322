"""``python -m tests.bench [--rounds N] [--quick]``: the pair of sidecars beside pairs of other proxies, on this machine.

All pairs run at the same time and take turns: each case on every pair, then the next case, then the next round. So
whatever the machine does meanwhile meets all of them. The tables go into docs/benchmarks.md; nothing here passes or
fails by a time.
"""

import argparse
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sidecar.dev.layout import free_ports
from tests.bench import callers, cases, machine, peers, usage, web
from tests.bench.cases import Case, Effort
from tests.bench.lockgate import Lockgate, lockgate
from tests.bench.pairs import Pair, Site, running_target
from tests.bench.report import Results, insert, render

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
ROUNDS = 5


@dataclass(frozen=True)
class Field:
    """Everything that runs."""

    lockgate: Lockgate
    peers: tuple[Pair, ...]
    web: tuple[Pair, ...]
    """Those that speak HTTP, lockgate first."""

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return self.lockgate.pair, *self.peers

    @property
    def columns(self) -> list[str]:
        names = (pair.name for pair in (self.lockgate.pair, self.lockgate.durable, *self.peers, *self.web))
        return list(dict.fromkeys(names))


def main() -> None:
    options = parse()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # Ends by unwinding: whatever runs is ended on the way.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    effort = cases.QUICK if options.quick else Effort()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lockgate-bench-") as folder, ready(Path(folder)) as field:
        results = measure(field, options.rounds or (1 if options.quick else ROUNDS), effort)
        tables = render(results, field.columns, machine.facts(Path(folder)))
    say(f"done in {time.monotonic() - started:.0f} s\n\n{tables}")
    if not options.quick:
        PAGE.write_text(insert(PAGE.read_text(), tables))
        say(f"\nwritten to {PAGE}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=0, help=f"how often each case is measured (default {ROUNDS})"
    )
    parser.add_argument("--quick", action="store_true", help="a moment of each: to see that all of it works")
    return parser.parse_args()


@contextmanager
def ready(folder: Path) -> Iterator[Field]:
    """The target and all pairs, running."""
    found = peers.available()
    for name in sorted({"nginx", "haproxy", "stunnel"} - found.keys()):
        say(f"{name} is not installed: left out")
    found_web = web.available()
    for name in sorted({"nginx", "caddy"} - found_web.keys()):
        say(f"{name} or wrk is not installed: left out of HTTP")
    ports = free_ports(2 + 2 * (2 + len(found) + len(found_web)))
    target, tool = ports.pop(), ports.pop()

    def site(name: str, target: int) -> Site:
        place = folder / name
        place.mkdir()
        return Site(place, target, ports.pop(), ports.pop())

    with ExitStack() as stack:
        stack.enter_context(running_target(target))
        others = tuple(stack.enter_context(start(site(name, target))) for name, start in found.items())
        if found_web:
            stack.enter_context(web.running_tool(tool, folder / "tool"))
        webs = [stack.enter_context(start(site(f"web-{name}", tool))) for name, start in found_web.items()]
        say("starting a mesh")
        mesh = stack.enter_context(lockgate(site("lockgate", target), site("lockgate-web", tool)))
        yield Field(mesh, others, (mesh.web, *webs) if found_web else ())


def measure(field: Field, rounds: int, effort: Effort) -> Results:
    """Everything, in turns."""
    results = Results()
    for pair in field.pairs:
        results.add(pair.name, cases.idle_memory(pair, effort))
    session = field.lockgate.mesh.env["SID"]
    for number in range(1, rounds + 1):
        say(f"round {number} of {rounds}")
        for case in cases.CASES:
            for pair in field.pairs:
                take(results, case, pair, effort)
            if case in cases.DURABLE_CASES:
                take(results, case, field.lockgate.durable, effort)
        for case in web.WEB_CASES:
            for pair in field.web:
                take(results, case, pair, effort)
        results.add(field.lockgate.pair.name, cases.session_start(field.lockgate, effort))
        results.add(field.lockgate.pair.name, callers.attribution(effort.trips))
        numbers, session = cases.revocation(field.lockgate, session, effort)
        results.add(field.lockgate.pair.name, numbers)
    return results


def take(results: Results, case: Case, pair: Pair, effort: Effort) -> None:
    """One case on one pair, once the pair has done with the one before."""
    usage.wait_until_quiet(pair.pids)
    results.add(pair.name, case(pair, effort))


def say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
