"""What nodes and the CA serve alike on their admin socket: hand in a statement, see where it is in force."""

from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.codec import convert
from pki.errors import RefusedError
from pki.spiffe import SpiffeId
from pki.statement import MAX_STATEMENT_BYTES, Canary, parse
from sidecar.control.unix import answer, body_of
from sidecar.gossip.member import Member
from sidecar.gossip.store import Entry
from sidecar.peering import is_member


class Submission(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A statement to take in and spread; in JSON the envelope is base64."""

    envelope: Annotated[bytes, msgspec.Meta(max_length=MAX_STATEMENT_BYTES)]


def routes(member: Member, trust_domain: str) -> list[Route]:
    """POST /v1/statements and GET /v1/statements/ID."""

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
                "nodes": _standing(member, entry, trust_domain),
            }
        )

    return [
        Route("/v1/statements", submit, methods=["POST"]),
        Route("/v1/statements/{id}", show, methods=["GET"]),
    ]


def _standing(member: Member, entry: Entry, trust_domain: str) -> dict[str, dict[str, Any]]:
    """For each node of the roster that is not revoked: confirmed with its receipt, or unconfirmed."""
    receipts = member.store.receipts(entry.statement.id)
    snapshot = member.snapshot
    rows: dict[str, dict[str, Any]] = {}
    body = entry.statement.body
    for name in sorted(body.nodes if isinstance(body, Canary) else snapshot.roster.nodes):
        who = SpiffeId.for_node(trust_domain, name)
        if not is_member(who, (), snapshot):
            continue
        receipt = receipts.get(str(who))
        lines = receipt.applied if receipt else []
        line = next((one for one in lines if one.id == entry.statement.id), None)
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
