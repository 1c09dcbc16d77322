"""The numbers as tables, as they are: medians of the rounds, the lowest and highest, ratios to the first peer. Pure."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bench.cases import METRICS, Metric, Numbers

BEGIN = "<!-- made by `make bench`: begin -->"
END = "<!-- made by `make bench`: end -->"


@dataclass
class Results:
    """All numbers by metric and pair, one for each round."""

    values: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )

    def add(self, pair: str, numbers: Numbers) -> None:
        for key, value in numbers.items():
            self.values[key][pair].append(value)

    def of(self, key: str, pair: str) -> Sequence[float]:
        return self.values.get(key, {}).get(pair, [])


def render(results: Results, pairs: Sequence[str], facts: dict[str, str]) -> str:
    """All tables in Markdown. The first pair that is not lockgate is what ratios are to."""
    base = next((pair for pair in pairs if not pair.startswith("lockgate")), "")
    parts = [_facts(facts), "Median of the rounds, (lowest - highest):", _table(results, pairs)]
    if base:
        parts += [
            f"Medians as multiples of those of {base}; **bold** is better than it:",
            _ratios(results, pairs, base),
        ]
    parts += [_revocation(results), _session_start(results), _attribution(results)]
    return "\n\n".join(part for part in parts if part)


def insert(page: str, tables: str) -> str:
    """``page`` with ``tables`` between its markers; raises ValueError when it has none."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no markers")
    return f"{head}{BEGIN}\n\n{tables}\n\n{END}{tail}"


def _facts(facts: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _table(results: Results, pairs: Sequence[str]) -> str:
    rows = [
        [metric.title, *(_cell(results.of(metric.key, pair), metric) for pair in pairs)] for metric in METRICS
    ]
    return markdown(["", *pairs], [row for row in rows if any(row[1:])])


def _cell(values: Sequence[float], metric: Metric) -> str:
    if not values:
        return ""
    median, low, high = (
        f"{one:.{metric.digits}f}" for one in (statistics.median(values), min(values), max(values))
    )
    return f"{median} ({low} - {high})" if len(values) > 1 else median


def _ratios(results: Results, pairs: Sequence[str], base: str) -> str:
    others = [pair for pair in pairs if pair != base]
    rows = []
    for metric in METRICS:
        unit = results.of(metric.key, base)
        if unit and (divisor := statistics.median(unit)):
            cells = [_ratio(results.of(metric.key, pair), divisor, metric) for pair in others]
            rows.append([metric.title, *cells])
    return markdown(["", *others], rows)


def _ratio(values: Sequence[float], divisor: float, metric: Metric) -> str:
    if not values:
        return ""
    ratio = statistics.median(values) / divisor
    is_better = ratio > 1 if metric.more_is_better else ratio < 1
    return f"**{ratio:.2f}**" if is_better else f"{ratio:.2f}"


def _revocation(results: Results) -> str:
    typed, signed = (results.of(key, "lockgate") for key in ("revoke-typed", "revoke-signed"))
    if not typed:
        return ""
    milliseconds = Metric("", "")
    rows = [
        ["from the command typed, ms", _cell(typed, milliseconds)],
        ["from its statement signed, ms", _cell(signed, milliseconds)],
    ]
    return markdown(["`revoke session:…` on the tools' node to the last dead stream", "lockgate"], rows)


def _session_start(results: Results) -> str:
    asked, ran = (results.of(key, "lockgate") for key in ("session-start", "session-exec"))
    if not asked:
        return ""
    milliseconds = Metric("", "", 1)
    rows = [
        ["its start, from asking to the answer, ms", _cell(asked, milliseconds)],
        ["all of `session exec true`, ms", _cell(ran, milliseconds)],
    ]
    return markdown(["a session", "lockgate"], rows)


def _attribution(results: Results) -> str:
    tcp, unix = (results.of(f"attribution-{name}", "lockgate") for name in ("tcp", "unix"))
    if not tcp:
        return ""
    microseconds = Metric("", "")
    rows = [
        ["over loopback TCP, µs", _cell(tcp, microseconds)],
        ["over a Unix socket, µs", _cell(unix, microseconds)],
    ]
    return markdown(["who calls, one caller among 100 sessions", "lockgate"], rows)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    ruler = ["---", *(["---:"] * (len(head) - 1))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ruler, *rows])
