"""`python -m tests.bench.dissemination`: one stop through simulated meshes of 100 to 10,000 nodes, into docs/dissemination.svg.

The network is made up (1 to 20 ms a message, 10 % lost), the members' cores are the real ones (:mod:`tests.simulation`).
"""

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from pki.clock import SECOND
from tests.simulation import MILLISECOND, Simulation
from tests.statements import lock

PAGE = Path(__file__).parents[2] / "docs" / "dissemination.svg"
SIZES = (100, 300, 1_000, 3_000, 10_000)
LOSS = 0.1
WIDTH, HEIGHT, MARGIN = 640, 320, 48


@dataclass(frozen=True)
class Spread:
    """How one statement reached ``size`` nodes: times in ms, bytes of a node until all had it."""

    size: int
    median: float
    last: float
    hops: int
    bytes: int


def main() -> None:
    found = [spread(size) for size in SIZES]
    for one in found:
        sys.stdout.write(
            f"{one.size:6} nodes: median {one.median:.0f} ms, last {one.last:.0f} ms, {one.hops} hops, {one.bytes} bytes a node\n"
        )
    PAGE.write_text(svg(found))


def spread(size: int) -> Spread:
    mesh = Simulation(size, loss=LOSS)
    mesh.run_until(lambda: mesh.now > 2 * SECOND, within=3 * SECOND)  # Links came up, and compared once.
    said, before = mesh.mint.says("lock", lock()), sum(node.received for node in mesh.nodes.values())
    started = mesh.now
    mesh.say("n00000", said)
    mesh.run_until(lambda: mesh.holds_all([said.id]), within=30 * SECOND)
    heard = [node.heard[said.id] for node in mesh.nodes.values()]
    times = [(at - started) / MILLISECOND for at, _ in heard]
    spent = sum(node.received for node in mesh.nodes.values()) - before
    return Spread(size, statistics.median(times), max(times), max(hops for _, hops in heard), spent // size)


def svg(found: list[Spread]) -> str:
    """Median and last node over the number of nodes, both axes as they are read."""
    top = max(one.last for one in found) * 1.1
    step = (WIDTH - 2 * MARGIN) / (len(found) - 1)

    def line(values: list[float], colour: str) -> str:
        points = " ".join(
            f"{MARGIN + n * step:.0f},{HEIGHT - MARGIN - value / top * (HEIGHT - 2 * MARGIN):.0f}"
            for n, value in enumerate(values)
        )
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'

    labels = "".join(
        f'<text x="{MARGIN + n * step:.0f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{one.size:,}</text>'
        f'<text x="{MARGIN + n * step:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{one.hops} hops, {one.bytes:,} B</text>'
        for n, one in enumerate(found)
    )
    marks = "".join(
        f'<text x="4" y="{HEIGHT - MARGIN - part * (HEIGHT - 2 * MARGIN):.0f}">{part * top:.0f} ms</text>'
        for part in (0.25, 0.5, 0.75, 1)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<text x="{MARGIN}" y="20">One stop, 10 % of messages lost: blue the median node, red the last one, by nodes</text>'
        f"{line([one.median for one in found], '#1f5fbf')}{line([one.last for one in found], '#bf2f2f')}{labels}{marks}</svg>\n"
    )


if __name__ == "__main__":
    main()
