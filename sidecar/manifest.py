"""A snapshot again, from the bodies that a node keeps by their digests (:meth:`sidecar.snapshot.Snapshot.bodies`). Pure."""

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from pki.clock import Wall
from pki.errors import RemoteError
from sidecar.policy.model import Policy
from sidecar.snapshot import (
    LeaseInForce,
    Leases,
    LockInForce,
    NodeMember,
    OperatorMember,
    PendingRequest,
    Restrictions,
    RevocationInForce,
    Roster,
    Snapshot,
    Target,
)


def snapshot_of(
    digest: str, body: Callable[[str], bytes | None], policy_of: Callable[[bytes, str], Policy]
) -> Snapshot:
    """The snapshot with this digest. ``body`` finds bodies, ``policy_of`` reads a policy's text and digest.

    Raises RemoteError for bodies that are not at hand, or not what their digests say.
    """
    try:
        manifest = _read(body, digest)
        parts = {
            name: _read(body, manifest[name])
            for name in ("nodes", "operators", "locks", "revocations", "leases", "pending")
        }
        found = Snapshot.of(
            policy=_policy(manifest["policy"], body, policy_of),
            bundle_digest=manifest["bundle"],
            roster=Roster(_nodes(parts["nodes"]), _operators(parts["operators"])),
            restrictions=Restrictions(map(_lock, parts["locks"]), map(_revocation, parts["revocations"])),
            leases=Leases(map(_lease, parts["leases"]), map(_pending, parts["pending"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise RemoteError(f"snapshot {digest}: of another form than this version writes") from None
    if found.digest != digest:  # also when this version leaves out what another one had in it
        raise RemoteError(f"snapshot {digest}: of another form than this version writes")
    return found


def _read(body: Callable[[str], bytes | None], digest: str) -> Any:
    return json.loads(_content(body, digest))


def _content(body: Callable[[str], bytes | None], digest: str) -> bytes:
    data = body(digest)
    if data is None:
        raise RemoteError(f"no body {digest}")
    if sha256(data).hexdigest() != digest:
        raise RemoteError(f"body {digest} is not what its name says")
    return data


def _policy(
    digest: str | None, body: Callable[[str], bytes | None], policy_of: Callable[[bytes, str], Policy]
) -> Policy | None:
    return None if digest is None else policy_of(_content(body, digest), digest)


def _nodes(part: dict[str, Any]) -> dict[str, NodeMember]:
    return {
        name: NodeMember(name, tuple(addresses), version, tuple(features), tuple(labels))
        for name, (addresses, version, features, labels) in part.items()
    }


def _operators(part: dict[str, Any]) -> dict[str, OperatorMember]:
    return {
        name: OperatorMember(name, key, frozenset(roles), uids, user)
        for name, (key, roles, uids, user) in part.items()
    }


def _target(text: str) -> Target:
    return Target(*text.split(":", 1))


def _lock(line: list[Any]) -> LockInForce:
    name, target, until, by, message = line
    return LockInForce(name, _target(target), Wall(until), by, message)


def _revocation(line: list[Any]) -> RevocationInForce:
    name, target, by, before = line
    return RevocationInForce(name, _target(target), by, None if before is None else Wall(before))


def _lease(line: list[Any]) -> LeaseInForce:
    name, session, rule, services, operations, until, *bound = line
    allowed = None if operations is None else tuple(operations)
    return LeaseInForce(name, session, rule, frozenset(services), allowed, Wall(until), *bound)


def _pending(line: list[Any]) -> PendingRequest:
    name, session, rule, services, until = line
    return PendingRequest(name, session, rule, frozenset(services), Wall(until))
