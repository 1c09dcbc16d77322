"""What nodes and the CA serve alike on their admin socket: hand in a statement, see where it is in force."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.codec import convert
from pki.errors import RefusedError
from pki.spiffe import SpiffeId
from pki.statement import MAX_STATEMENT_BYTES, Canary, Target, parse
from sidecar import snapshot
from sidecar.control.unix import answer, body_of
from sidecar.gossip.member import Member
from sidecar.gossip.standing import Confirmed, awaited, confirmed
from sidecar.gossip.store import Entry
from sidecar.peering import is_member
from sidecar.policy import decide
from sidecar.policy.impact import impact

MAX_FLEET_STATEMENTS = 256
"""The newest; each is a row for every node."""


class Submission(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A statement to take in and spread; in JSON the envelope is base64."""

    envelope: Annotated[bytes, msgspec.Meta(max_length=MAX_STATEMENT_BYTES)]


class DryRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stop that is not meant, only asked about."""

    kind: Literal["lock", "revocation"]
    target: Target


def routes(
    member: Member, trust_domain: str, live: Callable[[], Iterable[decide.Request]] = lambda: ()
) -> list[Route]:
    """Hand in a statement; where one is in force; GET /v1/fleet: all that counts, node by node; POST /v1/dry-run.

    ``live``: what the streams of this daemon are about.
    """

    async def submit(request: Request) -> Response:
        raw = convert(await body_of(request), Submission, what="statement").envelope
        statement = parse(raw)
        if refusals := await member.take([raw], None):
            raise RefusedError(refusals[0].partition(": ")[2])
        return answer({"id": statement.id, "kind": statement.kind})

    async def show(request: Request) -> Response:
        name = request.path_params["id"]
        entry = member.store.entry(name)
        if entry is None:
            raise RefusedError(f"statement {name}: not held here")
        return answer(
            {
                "id": entry.statement.id,
                "kind": entry.statement.kind,
                "issued": entry.statement.payload.issued,
                "author": entry.author,
                "counted": bool(entry.numbered),
                "nodes": _standing(member, entry, trust_domain, confirmed(member.store)),
            }
        )

    async def dry_run(request: Request) -> Response:
        wanted = convert(await body_of(request), DryRun, what="dry run")
        target = snapshot.Target(wanted.target.kind, wanted.target.value)
        is_for_good = wanted.kind == "revocation"
        asked = partial(impact, target, member.snapshot, member.moment(), list(live()), for_good=is_for_good)
        found = await trio.to_thread.run_sync(asked)  # Of a large policy it takes a second.
        paths = [dict(zip(("agent", "service", "segment"), path, strict=True)) for path in found.paths]
        return answer({"streams": found.streams, "sessions": found.sessions, "paths": paths})

    async def fleet(_: Request) -> Response:
        lines, listed = confirmed(member.store), list(awaited(member.store, member.floor))
        rows = [
            {
                "id": entry.statement.id,
                "kind": entry.statement.kind,
                "target": str(target) if (target := getattr(entry.statement.body, "target", None)) else "",
                "issued": entry.statement.payload.issued,
                "counted": bool(entry.numbered),
                "nodes": _standing(member, entry, trust_domain, lines),
            }
            for entry in listed[:MAX_FLEET_STATEMENTS]
        ]
        return answer({"statements": rows, "left_out": max(0, len(listed) - MAX_FLEET_STATEMENTS)})

    return [
        Route("/v1/fleet", fleet, methods=["GET"]),
        Route("/v1/dry-run", dry_run, methods=["POST"]),
        Route("/v1/statements", submit, methods=["POST"]),
        Route("/v1/statements/{id}", show, methods=["GET"]),
    ]


def _standing(member: Member, entry: Entry, trust_domain: str, lines: Confirmed) -> dict[str, dict[str, Any]]:
    """For each node of the roster that is not revoked: confirmed by its receipt, or unconfirmed."""
    now, given = member.snapshot, lines.get(entry.statement.id, {})
    rows: dict[str, dict[str, Any]] = {}
    body = entry.statement.body
    for name in sorted(body.nodes if isinstance(body, Canary) else now.roster.nodes):
        who = SpiffeId.for_node(trust_domain, name)
        if not is_member(who, (), now):
            continue
        line = given.get(str(who))
        if line is not None:
            rows[name] = {"state": "confirmed", "since": line.since, "cut": line.cut}
        else:
            rows[name] = {"state": "unconfirmed", "refuses_by": _refuses_by(member, entry)}
    return rows


def _refuses_by(member: Member, entry: Entry) -> dict[str, int]:
    """By segment: when a node that does not hold the statement must refuse by itself (wall, us), being stale.

    Once the CA counts the statement, no later heartbeat makes such a node fresh. Until then this holds only if the CA
    is down: a node that is cut off from us may go on hearing a CA that knows of nothing.
    """
    beat, policy = member.freshness.newest, member.snapshot.policy
    if beat is None or policy is None:
        return {}
    newest = max(beat.issued, *(one.payload.issued for one in entry.numbered), 0)
    return {name: newest + segment.stale_after for name, segment in policy.segments.items()}
