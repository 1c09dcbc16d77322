"""What nodes and the CA serve alike on their admin socket: hand in a statement, see where it is in force."""

from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.codec import convert
from pki.errors import RefusedError
from pki.spiffe import SpiffeId
from pki.statement import MAX_STATEMENT_BYTES, parse
from sidecar.control.unix import answer, body_of
from sidecar.gossip.member import Member
from sidecar.peering import is_member
from sidecar.snapshot import Snapshot


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
                "nodes": standing_of(member, entry.statement.id, trust_domain),
            }
        )

    return [
        Route("/v1/statements", submit, methods=["POST"]),
        Route("/v1/statements/{id}", show, methods=["GET"]),
    ]


def standing_of(member: Member, statement_id: str, trust_domain: str) -> dict[str, dict[str, Any]]:
    """For each node of the roster that is not revoked: confirmed with its receipt, or unconfirmed.

    An unconfirmed node refuses by itself once it is stale: at the latest ``stale_after`` of the segment past the
    newest heartbeat that anybody can have.
    """
    receipts = member.store.receipts(statement_id)
    snapshot = member.snapshot
    rows: dict[str, dict[str, Any]] = {}
    for name in sorted(snapshot.roster.nodes):
        who = SpiffeId.for_node(trust_domain, name)
        if not is_member(who, (), snapshot):
            continue
        receipt = receipts.get(str(who))
        line = next((one for one in receipt.applied if one.id == statement_id), None) if receipt else None
        if line is not None:
            rows[name] = {"state": "confirmed", "since": line.since, "cut": line.cut}
        else:
            rows[name] = {"state": "unconfirmed", "refuses_by": refuses_by(snapshot, member)}
    return rows


def refuses_by(snapshot: Snapshot, member: Member) -> dict[str, int]:
    """By segment: when a node that hears nothing more must refuse (wall, us)."""
    beat = member.freshness.newest
    if beat is None or snapshot.policy is None:
        return {}
    return {name: beat.issued + segment.stale_after for name, segment in snapshot.policy.segments.items()}
