"""From what the tables say of requests to the patterns, predicates and calls that rules and tests are made of."""

from collections.abc import Mapping

from sidecar.policy.match import Effect, HttpPattern, McpKind, McpPattern
from sidecar.policy.operation import TOOLS_CALL, HttpCall, McpCall
from sidecar.policy.predicates import Demands, Predicate, Reach, Subject
from sidecar.policy.tables.policy import RequestTable
from sidecar.policy.tables.rules import ArgumentTable, HttpTable, McpTable, QueryTable


def http_pattern(row: HttpTable, effect: Effect) -> HttpPattern:
    """One entry of ``http`` in a rule of ``effect``."""
    return HttpPattern(frozenset(row.methods), row.path, _predicates(Subject.QUERY, row.query, effect))


def mcp_pattern(row: McpTable, effect: Effect) -> McpPattern:
    """One entry of ``mcp`` in a rule of ``effect``."""
    predicates = _predicates(Subject.ARGUMENT, row.arguments, effect)
    if row.tools:
        return McpPattern(McpKind.TOOLS, row.tools, predicates)
    if row.resources:
        return McpPattern(McpKind.RESOURCES, row.resources)
    return McpPattern(McpKind.PROMPTS, row.prompts, predicates)


def _predicates(
    subject: Subject, rows: Mapping[str, QueryTable | ArgumentTable], effect: Effect
) -> tuple[Predicate, ...]:
    reach = Reach.EVERY if effect is Effect.GRANT else Reach.SOME
    return tuple(Predicate(subject, key, _tests(row), reach) for key, row in sorted(rows.items()))


def _tests(row: QueryTable | ArgumentTable) -> Demands | None:
    if row.absent:
        return None
    one_of = (row.equals,) if row.equals is not None else row.in_ or None
    return Demands(one_of, row.prefix, row.min, row.max)


def call_of(row: RequestTable) -> HttpCall | McpCall:
    """The request of a test."""
    if row.path is not None:
        query = tuple(
            (name, value)
            for name, values in row.query.items()
            for value in ((values,) if isinstance(values, str) else values)
        )
        return HttpCall(row.method or "", row.path, query)
    if row.tool is not None:
        return McpCall(TOOLS_CALL, row.tool, row.arguments)
    if row.resource is not None:
        return McpCall("resources/read", row.resource)
    return McpCall("prompts/get", row.prompt or "", row.arguments)
