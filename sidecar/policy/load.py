"""From the text of a policy file to a policy: checked whole, every fault at once."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pki.clock import Wall
from pki.errors import ConfigError, Fault
from sidecar.defaults import POLICY_PAIRS, TOML_BYTES
from sidecar.policy.compile import call_of, http_pattern, mcp_pattern
from sidecar.policy.features import ENFORCED, Feature
from sidecar.policy.match import Effect, Rule
from sidecar.policy.model import (
    Agent,
    Binding,
    Escalation,
    Expectation,
    InjectHeader,
    Invalidation,
    Objective,
    Policy,
    Quota,
    Segment,
    Service,
    ServiceOperation,
    When,
    Window,
)
from sidecar.policy.ruleset import RuleSet
from sidecar.policy.tables.agents import BindingTable, BytesTable, QuotaTable, RequestsTable
from sidecar.policy.tables.defined import Defined
from sidecar.policy.tables.escalations import WhenTable, hours_of
from sidecar.policy.tables.invalidations import OverTable
from sidecar.policy.tables.policy import PolicyTables
from sidecar.policy.tables.presets import PRESETS
from sidecar.policy.tables.rules import RuleTable
from sidecar.policy.tables.segments import SegmentTable
from sidecar.policy.tables.services import InjectTable, ServiceTable
from sidecar.toml import Document, parse_document

FREED_AT_ONCE = 500

_KEYS = {Effect.GRANT: "grants", Effect.DENY: "denies"}


def load_policy(
    text: bytes, name: str, limit: int = TOML_BYTES, enforced: frozenset[Feature] = ENFORCED
) -> Policy:
    """The policy in ``text``; raises ConfigError with every fault. ``name`` stands in the messages.

    What it uses beyond ``enforced`` is a fault. What depends on more than the text (the roster, a mesh for
    development) is for :mod:`sidecar.policy.check`.
    """
    document = parse_document(text, name, limit)
    tables = document.load(PolicyTables, Defined.by(document.tables, enforced))
    is_large = len(text) > TOML_BYTES
    if is_large:
        _let_go(*(value for value in document.tables.values() if isinstance(value, list)))
    reading = _Reading(tables, document, _segments(tables, document))
    policy = reading.policy(hashlib.sha256(text).hexdigest())
    if is_large:
        rules: list[list[Any]] = [[*tables.grants], [*tables.denies]]
        vars(tables).clear()  # the lists are now all that holds them
        _let_go(*rules, document.lines)
    return policy


@dataclass(frozen=True, slots=True)
class _Reading:
    """A file without faults, on its way to a policy."""

    tables: PolicyTables
    document: Document
    segments: dict[str, Segment]

    def policy(self, digest: str) -> Policy:
        tables = self.tables
        grants = tuple(self._rules(Effect.GRANT, tables.grants))
        denies = tuple(self._rules(Effect.DENY, tables.denies))
        _check_size((*grants, *denies), self.document)
        return Policy(
            digest=digest,
            segments=MappingProxyType(self.segments),
            services=MappingProxyType(self._services()),
            agents=MappingProxyType(self._agents()),
            bindings=tuple(
                _binding(row, self._line("bindings", index)) for index, row in enumerate(tables.bindings)
            ),
            grants=RuleSet(grants),
            denies=RuleSet(denies),
            tests=tuple(self._tests()),
            escalations=MappingProxyType(self._escalations()),
            invalidations=MappingProxyType(self._invalidations()),
            pins=MappingProxyType({(row.service, row.tool): row.digest for row in tables.pins}),
            requires=frozenset(tables.requires),
            apply_approvals=tables.apply_approvals,
        )

    def _line(self, *path: str | int) -> int:
        return self.document.line(path)

    def _services(self) -> dict[str, Service]:
        return {
            name: Service(
                name=name,
                segment=self.segments[row.segment],
                nodes=frozenset(row.nodes),
                target=row.target,
                protocol=row.protocol,
                blast_radius=frozenset(row.blast_radius),
                open_target=row.open_target,
                line=self._line("services", name),
                labels=frozenset(row.labels),
                host=row.host or "",
                risk=row.risk,
                inject_header=_inject_header(row.inject),
                endpoint=row.endpoint,
                path_parameters=row.path_parameters,
                operations=tuple(self._operations(name, row)),
            )
            for name, row in self.tables.services.items()
        }

    def _operations(self, service: str, table: ServiceTable) -> Iterable[ServiceOperation]:
        for index, row in enumerate(table.operations):
            yield ServiceOperation(
                segment=self.segments[row.segment or table.segment],
                operation_class=row.class_,
                blast_radius=frozenset(row.blast_radius or table.blast_radius),
                line=self._line("services", service, "operations", index),
                tools=row.tools,
                methods=frozenset(row.methods),
                path=row.path,
            )

    def _agents(self) -> dict[str, Agent]:
        return {
            name: Agent(
                name=name,
                nodes=frozenset(row.nodes),
                uid=row.uid,
                line=self._line("agents", name),
                session_lifetime=row.session.lifetime if row.session else None,
                session_idle=row.session.idle if row.session else None,
                quota=_quota(row.quota),
                session_quota=_quota(row.session_quota),
            )
            for name, row in self.tables.agents.items()
        }

    def _rules(self, effect: Effect, rows: Iterable[RuleTable]) -> Iterable[Rule]:
        for index, row in enumerate(rows):
            yield Rule(
                effect=effect,
                id=row.id,
                agents=frozenset(row.agents),
                services=frozenset(row.services),
                segments=frozenset(row.segments),
                expires=None if row.expires is None else Wall(row.expires),
                line=self._line(_KEYS[effect], index),
                owner=row.owner,
                ticket=row.ticket,
                http=tuple(http_pattern(one, effect) for one in row.http),
                mcp=tuple(mcp_pattern(one, effect) for one in row.mcp),
            )

    def _escalations(self) -> dict[str, Escalation]:
        return {
            row.id: Escalation(
                id=row.id,
                agents=frozenset(row.agents),
                from_segment=row.from_,
                to_segment=row.to,
                services=frozenset(row.services),
                max_ttl=row.max_ttl,
                approvals=row.approvals,
                approvers=frozenset(row.approvers),
                when=_when(row.when),
                line=self._line("escalations", index),
                owner=row.owner,
                ticket=row.ticket,
            )
            for index, row in enumerate(self.tables.escalations)
        }

    def _invalidations(self) -> dict[str, Invalidation]:
        return {
            row.id: Invalidation(
                id=row.id,
                on=row.on,
                agents=frozenset(row.agents),
                over=_window(row.over),
                lock=row.lock,
                ttl=row.ttl,
                mode=row.mode,
                line=self._line("invalidations", index),
                owner=row.owner,
                ticket=row.ticket,
            )
            for index, row in enumerate(self.tables.invalidations)
        }

    def _tests(self) -> Iterable[Expectation]:
        for index, row in enumerate(self.tables.tests):
            call = call_of(row.request) if row.request else None
            yield Expectation(row.agent, row.service, row.expect, self._line("tests", index), call)


def _let_go(*held: list[Any] | Mapping[Any, Any]) -> None:
    """Free what a large file was read into, bit by bit: all at once, nothing else would run for a quarter of a second."""
    for one in held:
        while isinstance(one, list) and one:
            del one[-FREED_AT_ONCE:]
        while isinstance(one, dict) and one:
            one.popitem()


def _binding(row: BindingTable, line: int) -> Binding:
    if isinstance(row.listen, int):
        return Binding(row.agent, row.service, row.listen, line, callers=row.callers)
    return Binding(row.agent, row.service, 0, line, row.listen, row.callers)


def _segments(tables: PolicyTables, document: Document) -> dict[str, Segment]:
    """The presets, and what the file says of them and beside them."""
    rows = {name: SegmentTable.model_validate(dict(preset)) for name, preset in PRESETS.items()}
    return {
        name: Segment(
            name=name,
            operation_class=row.class_,
            stale_after=row.stale_after,
            audit=row.audit,
            on_stale=row.on_stale,
            line=document.line(("segments", name)) if name in tables.segments else 0,
            decision_ttl=row.decision_ttl,
            mode=row.mode,
            record=row.record,
            slo=Objective(row.slo.p99, row.slo.objective) if row.slo else None,
        )
        for name, row in (rows | tables.segments).items()
    }


def _inject_header(row: InjectTable | None) -> InjectHeader | None:
    if row is None or row.header is None or row.credential is None:
        return None
    return InjectHeader(row.header, row.credential, row.prefix)


def _quota(row: QuotaTable | None) -> Quota | None:
    if row is None:
        return None
    return Quota(row.streams, _window(row.requests), _window(row.bytes))


def _window(row: RequestsTable | BytesTable | OverTable | None) -> Window | None:
    return Window(row.count, row.per) if row else None


def _when(row: WhenTable) -> When:
    hours = hours_of(row.hours, row.timezone) if row.hours else None
    return When(hours, row.max_per_day, row.require_reason)


def _check_size(rules: Iterable[Rule], document: Document) -> None:
    """A file of 1 MiB could name 10,000 agents and services in one grant: 100 million index entries."""
    entries = sum(rule.entries for rule in rules)
    if entries > POLICY_PAIRS:
        what = f"its rules name {entries} pairs of agent and service, at most {POLICY_PAIRS} are allowed"
        raise ConfigError([Fault(document.name, what, "name segments instead of services")])
