"""A blast radius as a picture: SVG, drawn by hand in four columns. Pure; the same picture for the same reach.

    subject -> agents -> services and operations -> what is at stake

Solid lines are within reach now, dashed ones after an approval. The colour is the risk.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape

from sidecar.policy.blast import Blast, Reach
from sidecar.policy.model import Risk

MAX_BOXES = 60
"""Of one column; whoever has more reads the table."""
COLUMN = 260
ROW = 34
BOX_WIDTH = 200
BOX_HEIGHT = 24
MARGIN = 20
MAX_CHARS = 30

_COLOURS = {Risk.HIGH: "#c0392b", Risk.MEDIUM: "#d68910", Risk.LOW: "#1e8449"}
_PLAIN = "#34495e"


@dataclass(frozen=True, slots=True)
class _Box:
    """One thing in a column. ``key`` tells it from others that read alike."""

    key: tuple[str, ...]
    text: str
    colour: str = _PLAIN


def svg(found: Blast) -> str:
    """The picture, as one XML document in UTF-8."""
    columns = _columns(found)
    places = {
        (number, box.key): (MARGIN + number * COLUMN, MARGIN + row * ROW)
        for number, boxes in enumerate(columns)
        for row, box in enumerate(boxes)
    }
    height = 2 * MARGIN + ROW * max(map(len, columns))
    width = 2 * MARGIN + 3 * COLUMN + BOX_WIDTH
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
            f' viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
        ),
        f"<title>{_text(f'what {found.subject} reaches', 200)}</title>",
        *_edges(found, places),
        *(
            line
            for number, boxes in enumerate(columns)
            for box in boxes
            for line in _box(box, *places[number, box.key])
        ),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _columns(found: Blast) -> list[list[_Box]]:
    subject = [_Box(("",), str(found.subject))]
    agents = [
        _Box((name,), f"agent {name}") for name in _once(one.agent for one in found.reaches if one.agent)
    ]
    worst: dict[tuple[str, str], Reach] = {}
    for one in found.reaches:  # the worst come first
        worst.setdefault((one.service, one.operation), one)
    things = [
        _Box(key, " ".join(key) if key[1] != "any" else key[0], _COLOURS[one.risk])
        for key, one in worst.items()
    ]
    stakes = [_Box((one.label,), one.label, _COLOURS[one.risk]) for one in found.stakes]
    return [subject, *(_shortened(boxes) for boxes in (agents, things, stakes))]


def _shortened(boxes: list[_Box]) -> list[_Box]:
    more = len(boxes) - MAX_BOXES
    return boxes if more <= 0 else [*boxes[:MAX_BOXES], _Box(("", "more"), f"and {more} more")]


def _once(names: Iterable[str]) -> list[str]:
    return sorted(set(names))


def _edges(found: Blast, places: dict[tuple[int, tuple[str, ...]], tuple[int, int]]) -> Iterator[str]:
    """Each line once, solid where any of what it stands for is."""
    lines: dict[tuple[tuple[int, int], tuple[int, int]], bool] = {}
    for one in found.reaches:
        thing = (2, (one.service, one.operation))
        start = (1, (one.agent,)) if one.agent else (0, ("",))
        ends = [(start, thing), *((thing, (3, (label,))) for label in one.labels)]
        ends += [((0, ("",)), start)] if one.agent else []
        for left, right in ends:
            if left in places and right in places:
                line = places[left], places[right]
                lines[line] = lines.get(line, True) and one.escalated
    for ((x1, y1), (x2, y2)), escalated in sorted(lines.items()):
        dash = ' stroke-dasharray="5 4"' if escalated else ""
        yield (
            f'<line x1="{x1 + BOX_WIDTH}" y1="{y1 + BOX_HEIGHT // 2}" x2="{x2}" y2="{y2 + BOX_HEIGHT // 2}"'
            f' stroke="#7f8c8d"{dash}/>'
        )


def _box(box: _Box, x: int, y: int) -> Iterator[str]:
    yield (
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="4" fill="white"'
        f' stroke="{box.colour}" stroke-width="2"/>'
    )
    whole = f"<title>{_text(box.text, 500)}</title>"
    yield f'<text x="{x + 8}" y="{y + 16}" fill="{box.colour}">{_text(box.text, MAX_CHARS)}{whole}</text>'


def _text(text: str, limit: int) -> str:
    """Fit for XML: escaped, and without the control characters that no escape makes legal (XML 1.0, section 2.2)."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    return escape(shown if len(shown) <= limit else shown[: limit - 1] + "…")
