"""How permissions and differences read on a terminal, and as JSON."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli.values import printable

if TYPE_CHECKING:
    from sidecar.policy.diff import Change, Difference, Edit
    from sidecar.policy.effective import Permission

MAX_LINES = 200
"""Of one difference. Whoever generates policies reads the rest with --json."""

_MARKS = {"gained": ("+", "green"), "lost": ("-", "red"), "changed": ("~", "yellow")}


def difference_text(found: "Difference") -> str:
    """Agent by agent, then setting by setting, then how much it is."""
    if not found:
        return "nothing changes: the same agents may do the same, and every name means the same"
    lines = [line for agent, changes in found.by_agent().items() for line in _agent(agent, changes)]
    lines += [line for edit in found.edits for line in _edit(edit)]
    if len(lines) > MAX_LINES:
        lines[MAX_LINES:] = [f"... and {len(lines) - MAX_LINES} lines more; --json has all"]
    return "\n".join([*lines, summary(found)])


def summary(found: "Difference") -> str:
    """How many permissions and settings, in one line."""
    from sidecar.policy.diff import Kind

    counts = [f"{found.count(kind)} {kind}" for kind in Kind if found.count(kind)]
    settings = [f"{len(found.edits)} of settings"] if found.edits else []
    return "in all: " + ", ".join([*counts, *settings])


def difference_rows(found: "Difference") -> dict[str, Any]:
    """The same for --json."""
    return {
        "changes": [
            {
                "kind": str(change.kind),
                "agent": change.subject[0],
                "service": change.subject[1],
                "operation": change.subject[2],
                "before": [permission_row(one) for one in change.before],
                "after": [permission_row(one) for one in change.after],
            }
            for change in found.changes
        ],
        "settings": [
            {"table": one.table, "setting": one.setting, "before": one.before, "after": one.after}
            for one in found.edits
        ],
    }


def permission_row(one: "Permission") -> dict[str, Any]:
    """One permission for --json."""
    return {
        "agent": one.agent,
        "service": one.service,
        "operation": one.operation,
        "class": str(one.operation_class),
        "segment": one.segment,
        "rule": one.rule,
        "line": one.line,
        "conditions": list(one.conditions),
    }


def permission_table(rows: "Iterable[Permission]") -> str:
    """One line for each thing that an agent may do."""
    head = ("AGENT", "SERVICE", "OPERATION", "CLASS", "SEGMENT", "RULE", "")
    cells = (
        (
            one.agent,
            one.service,
            one.operation,
            one.operation_class,
            one.segment,
            f"{one.rule}:{one.line}" if one.rule else "",
            ", ".join(one.conditions),
        )
        for one in rows
    )
    return table(head, cells)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as what is in them."""
    cells = [[*head], *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def _agent(agent: str, changes: "Iterable[Change]") -> list[str]:
    lines = [f"agent {agent}"]
    for change in changes:
        mark, colour = _MARKS[str(change.kind)]
        _, service, operation = change.subject
        now = "; ".join(map(_terms, change.after or change.before))
        lines.append(click.style(f"  {mark} {service}  {operation}: {now}", fg=colour))
        if change.before and change.after:
            lines.append(f"      was: {'; '.join(map(_terms, change.before))}")
    return lines


def _terms(one: "Permission") -> str:
    rule = f"by {one.rule}" if one.rule else ""
    return ", ".join(
        part for part in (f"{one.operation_class} in {one.segment}", rule, *one.conditions) if part
    )


def _edit(edit: "Edit") -> list[str]:
    before, after = printable(edit.before), printable(edit.after)
    if edit.setting:
        return [f"{edit.table}: {edit.setting} {before or 'nothing'} -> {after or 'nothing'}"]
    mark, colour = _MARKS["gained" if after else "lost"]
    return [click.style(f"{mark} {edit.table}: {after or before}".rstrip(": "), fg=colour)]
