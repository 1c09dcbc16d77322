"""``python -m tests.bench.policies [--quick]``: what a policy of 10, 1,000 and 100,000 rules costs, beside Cedar.

Decisions are made in this process, one after the other, so a number is the time of one call. What loading costs is
measured in a process of its own: the text comes from a peer, is inflated, kept, read and put in force as in a node,
while a task on the same loop asks to be woken each millisecond and says how late it was.
"""

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from pki.clock import Wall
from pki.ids import new_id
from pki.spiffe import SpiffeId
from pki.statement import Policy as Named
from sidecar.gossip.policies import Loaded, Policies
from sidecar.gossip.texts import PART_BYTES
from sidecar.objects import Objects
from sidecar.packed import pack
from sidecar.policy.cache import DecisionCache
from sidecar.policy.decide import Request, decide
from sidecar.policy.features import LANGUAGE
from sidecar.policy.load import load_policy
from sidecar.policy.operation import Operation
from sidecar.snapshot import Moment, NodeMember, Restrictions, Roster, Snapshot
from sidecar.wire import Object
from tests.bench.report import markdown

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
BEGIN = "<!-- made by `make bench`, policies: begin -->"
END = "<!-- made by `make bench`, policies: end -->"

SIZES = (10, 1_000, 100_000)
CEDAR_SIZE = 1_000
CALLS = 20_000
NOW = Wall(1_790_000_000_000_000)
SESSION = new_id(bytes(16))
ROSTER = Roster({name: NodeMember(name, (), "", (), ()) for name in ("agents-1", "tools-1")}, {})

SERVICE = (
    '[services.s{n}]\nsegment = "retrieval"\nnodes = ["tools-1"]\ntarget = "127.0.0.1:1"\nprotocol = "http"\n'
)
AGENT = '[agents.a{n}]\nnodes = ["agents-1"]\nuid = {uid}\n'
GRANT = (
    '[[grants]]\nid = "g{n}"\nagents = ["a{agent}"]\nservices = ["s{service}"]\n'
    'http = [{{ methods = ["GET"], path = "/api/p{n}/**" }}]\nowner = "team-{service}"\n'
)
CEDAR = (
    '@id("g{n}")\npermit(principal == Agent::"a{agent}", action == Action::"GET", resource == Service::"s{service}")\n'
    'when {{ context.path like "/api/p{n}/*" }};\n'
)


def shape(rules: int) -> tuple[int, int]:
    """How many agents and services: each pair of them has one rule."""
    services = min(100, max(2, rules // 5))
    return rules // services, services


def text_of(rules: int) -> bytes:
    agents, services = shape(rules)
    parts = [SERVICE.format(n=n) for n in range(services)]
    parts += [AGENT.format(n=n, uid=1_000 + n) for n in range(agents)]
    parts += [GRANT.format(n=n, agent=n // services, service=n % services) for n in range(agents * services)]
    return "".join(parts).encode()


def request_of(rule: int, rules: int) -> Request:
    _, services = shape(rules)
    session = SpiffeId.for_agent("bench", f"a{rule // services}", "agents-1", SESSION)
    operation = Operation("GET", f"/api/p{rule}/x")
    return Request(session, f"s{rule % services}", "tools-1", (), Wall(NOW + 10**9), operation=operation)


def timed(call: Callable[[int], object], calls: int) -> dict[str, float]:
    """Microseconds of one call: median and 99 of 100."""
    took = []
    for number in range(calls):
        began = time.perf_counter_ns()
        call(number)
        took.append((time.perf_counter_ns() - began) / 1_000)
    took.sort()
    return {"p50": statistics.median(took), "p99": took[int(len(took) * 0.99)]}


def decisions(rules: int, calls: int) -> dict[str, dict[str, float]]:
    """Uncached over 500 requests in turn, cached over the same."""
    policy = load_policy(text_of(rules), "policy.toml", 2**25, LANGUAGE)
    snapshot = Snapshot.of(policy=policy, bundle_digest="", roster=ROSTER, restrictions=Restrictions())
    moment = Moment(NOW, NOW, NOW)
    step = max(1, rules // 500)
    asked = [request_of(rule, rules) for rule in range(0, rules - rules % shape(rules)[1], step)]
    assert all(decide(one, snapshot, moment).allowed for one in asked)
    cache = DecisionCache()
    for one in asked:
        cache.decide(one, snapshot, moment, "")
    return {
        "uncached": timed(lambda n: decide(asked[n % len(asked)], snapshot, moment), calls),
        "cached": timed(lambda n: cache.decide(asked[n % len(asked)], snapshot, moment, ""), calls),
    }


def cedar(rules: int, calls: int) -> dict[str, float] | None:
    """The same rules and requests for Cedar, both parsed before; None where it is not installed."""
    try:
        import cedarpy
    except ImportError:
        return None
    _, services = shape(rules)
    text = "".join(CEDAR.format(n=n, agent=n // services, service=n % services) for n in range(rules))
    policies, entities = cedarpy.PolicySet.from_str(text), cedarpy.Entities.from_json_str("[]")
    asked = [
        {
            "principal": f'Agent::"a{rule // services}"',
            "action": 'Action::"GET"',
            "resource": f'Service::"s{rule % services}"',
            "context": {"path": f"/api/p{rule}/x"},
        }
        for rule in range(0, rules, 2)
    ]
    assert cedarpy.is_authorized(asked[0], policies, entities).allowed
    return timed(lambda n: cedarpy.is_authorized(asked[n % len(asked)], policies, entities), calls // 20)


# Loading, in a process of its own


async def put_in_force(text: bytes, folder: Path) -> dict[str, float]:
    """Seconds from the first part to the compiled policy, and how late the loop was meanwhile, ms."""
    lags: list[float] = []

    async def watch() -> None:
        while True:
            began = trio.current_time()
            await trio.sleep(0.001)
            lags.append((trio.current_time() - began - 0.001) * 1_000)

    policies = Policies(Objects(folder), lambda _, __: None)
    packed = pack(text)
    digest = hashlib.sha256(text).hexdigest()
    named = Named(sequence=1, digest=digest, size=len(text), author="bench")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await trio.sleep(0.1)
        began = time.perf_counter()
        assert await policies.prepare(named, Loaded(), ["peer"]) is None
        for offset in range(0, len(packed), PART_BYTES):
            part = packed[offset : offset + PART_BYTES]
            message = Object(digest=named.digest, offset=offset, total=len(packed), data=part)
            await policies.receive("peer", message, ["peer"])
        loaded = await policies.prepare(named, Loaded(), ["peer"])
        took = time.perf_counter() - began
        assert loaded is not None, "it is here"
        assert loaded.policy is not None, loaded.fault
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    lags.sort()
    return {"load": took, "lag-max": lags[-1], "lag-p99": lags[int(len(lags) * 0.99)]}


def loading(rules: int) -> dict[str, float]:
    """The same in a process of its own, and how much memory that took at most, MiB."""
    words = [sys.executable, "-m", "tests.bench.policies", "--load", str(rules)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    numbers: dict[str, float] = json.loads(done.stdout)
    return numbers


def load_here(rules: int) -> None:
    text = text_of(rules)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        numbers = trio.run(put_in_force, text, Path(folder))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    sys.stdout.write(json.dumps({**numbers, "peak": peak, "size": len(text) / 2**20}))


# Tables


def tables(sizes: tuple[int, ...], calls: int) -> str:
    """Two tables in Markdown."""
    made = {size: decisions(size, calls) for size in sizes}
    rows = [
        [f"{kind}, {quantile}, µs", *(f"{made[size][kind][quantile]:.1f}" for size in sizes)]
        for kind in ("uncached", "cached")
        for quantile in ("p50", "p99")
    ]
    other = cedar(CEDAR_SIZE, calls) if CEDAR_SIZE in sizes else None
    for quantile in ("p50", "p99") if other else ():
        cells = (f"{other[quantile]:.1f}" if other and size == CEDAR_SIZE else "" for size in sizes)
        rows.append([f"Cedar (cedarpy), {quantile}, µs", *cells])
    first = markdown(["one decision on one request, rules in the policy:", *map("{:,}".format, sizes)], rows)
    loads = {size: loading(size) for size in sizes}
    titles = {
        "size": ("text, MiB", 2),
        "load": ("fetched, read and in force, s", 2),
        "peak": ("memory at most, MiB", 0),
        "lag-p99": ("a task on the loop was late by, p99, ms", 1),
        "lag-max": ("the same, at most, ms", 1),
    }
    second = [
        [title, *(f"{loads[size][key]:.{digits}f}" for size in sizes)]
        for key, (title, digits) in titles.items()
    ]
    return f"{first}\n\n{markdown(['a new policy, rules in it:', *map('{:,}'.format, sizes)], second)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.policies", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small policies: to see that all of it works")
    parser.add_argument("--load", type=int, metavar="RULES", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load_here(options.load)
        return
    made = tables(SIZES[:2], 2_000) if options.quick else tables(SIZES, CALLS)
    sys.stdout.write(f"{made}\n")
    if not options.quick:
        head, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n\n{made}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
