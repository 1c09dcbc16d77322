"""From the text of a policy file to a policy: checked whole, every fault at once."""

import hashlib
from collections.abc import Iterable
from types import MappingProxyType

from pki.errors import ConfigError, Fault
from sidecar.defaults import POLICY_PAIRS, TOML_BYTES
from sidecar.policy.match import Effect, Rule, RuleSet
from sidecar.policy.model import Agent, Binding, Expectation, Policy, Segment, Service
from sidecar.policy.tables import PRESETS, BindingTable, Defined, PolicyTables, RuleTable, SegmentTable
from sidecar.toml import Document, parse_document


def load_policy(text: bytes, name: str, limit: int = TOML_BYTES) -> Policy:
    """The policy in ``text``; raises ConfigError with every fault. ``name`` stands in the messages.

    What depends on more than the text (the roster, a mesh for development) is for :mod:`sidecar.policy.check`.
    """
    document = parse_document(text, name, limit)
    tables = document.load(PolicyTables, Defined.by(document.tables))
    segments = _segments(tables, document)
    rules = {Effect.GRANT: tables.grants, Effect.DENY: tables.denies}
    grants, denies = (tuple(_rules(effect, rows, document)) for effect, rows in rules.items())
    _check_size((*grants, *denies), document)
    return Policy(
        digest=hashlib.sha256(text).hexdigest(),
        segments=MappingProxyType(segments),
        services=MappingProxyType(_services(tables, segments, document)),
        agents=MappingProxyType(_agents(tables, document)),
        bindings=tuple(
            _binding(row, document.line(("bindings", index))) for index, row in enumerate(tables.bindings)
        ),
        grants=RuleSet(grants),
        denies=RuleSet(denies),
        tests=tuple(
            Expectation(row.agent, row.service, row.expect, document.line(("tests", index)))
            for index, row in enumerate(tables.tests)
        ),
    )


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
        )
        for name, row in (rows | tables.segments).items()
    }


def _services(tables: PolicyTables, segments: dict[str, Segment], document: Document) -> dict[str, Service]:
    return {
        name: Service(
            name=name,
            segment=segments[row.segment],
            nodes=frozenset(row.nodes),
            target=row.target,
            protocol=row.protocol,
            blast_radius=frozenset(row.blast_radius),
            open_target=row.open_target,
            line=document.line(("services", name)),
        )
        for name, row in tables.services.items()
    }


def _agents(tables: PolicyTables, document: Document) -> dict[str, Agent]:
    return {
        name: Agent(name, frozenset(row.nodes), row.uid, document.line(("agents", name)))
        for name, row in tables.agents.items()
    }


def _rules(effect: Effect, rows: Iterable[RuleTable], document: Document) -> Iterable[Rule]:
    key = {Effect.GRANT: "grants", Effect.DENY: "denies"}[effect]
    for index, row in enumerate(rows):
        yield Rule(
            effect=effect,
            id=row.id,
            agents=frozenset(row.agents),
            services=frozenset(row.services),
            segments=frozenset(row.segments),
            expires=row.expires,
            line=document.line((key, index)),
            owner=row.owner,
            ticket=row.ticket,
        )


def _check_size(rules: Iterable[Rule], document: Document) -> None:
    """A file of 1 MiB could name 10,000 agents and services in one grant: 100 million index entries."""
    pairs = sum(rule.pairs for rule in rules)
    if pairs > POLICY_PAIRS:
        what = f"its rules name {pairs} pairs of agent and service, at most {POLICY_PAIRS} are allowed"
        raise ConfigError([Fault(document.name, what, "name segments instead of services")])
