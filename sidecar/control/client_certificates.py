"""Client certificates for the bindings of a session whose callers are told by `mtls`: two calls of agent.sock.

Whoever has one is that session, from wherever it calls. So it is given only to who would be taken for that session by
the kernel too: of a session with a cgroup, or a child, to a process in that very cgroup, and from inside another
session to nobody. Root may ask for any.
"""

from collections.abc import Callable
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki import chain as chains
from pki.codec import convert
from pki.errors import RefusedError
from pki.svid import MAX_CSR_BYTES, public_key_of_csr
from sidecar.control.local_api import Asker, asker_of
from sidecar.control.unix import answer, body_of
from sidecar.node import Node
from sidecar.policy.model import Callers
from sidecar.proxy.local_certificate import Pin
from sidecar.session.sessions import Session

PATH = "/v1/sessions/{id}/client-certificates"

Own = Callable[[Request], Session]
"""The session that a request names; raises RefusedError unless it is the caller's own."""


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``csr``: PKCS #10, DER, of which only the key is taken."""

    service: Annotated[str, msgspec.Meta(max_length=63)]
    csr: Annotated[bytes, msgspec.Meta(max_length=MAX_CSR_BYTES)]


def routes(node: Node, own: Own) -> list[Route]:
    """Which bindings of a session want a certificate, and one for a binding, with what the server's is checked by."""

    async def show(request: Request) -> Response:
        return answer({"services": _services(node, own(request))})

    async def issue(request: Request) -> Response:
        session = own(request)
        _require_entitled(asker_of(node, request), session)
        wanted = convert(await body_of(request), Wanted, what="client certificate")
        if wanted.service not in _services(node, session):
            raise RefusedError(
                f'agent {session.id.name}: no binding to {wanted.service} with callers = "mtls"'
            )
        pin = Pin(session.id.name, wanted.service, session.name)
        left, ends = session.narrowing, session.identity.not_after
        ends = min(ends, left.not_after) if left else ends
        der = node.local_tls.certify(pin, public_key_of_csr(wanted.csr), ends)
        roots = b"".join(chains.to_pem([root]) for root in node.member.bundle.roots)
        return answer(
            {"certificate": chains.to_pem([der]).decode(), "roots": roots.decode(), "not_after": ends}
        )

    return [Route(PATH, show, methods=["GET"]), Route(PATH, issue, methods=["POST"])]


def _require_entitled(asker: Asker, session: Session) -> None:
    """Raise RefusedError for a process that the kernel would not take for ``session``."""
    must_be_inside = asker.is_inside or session.cgroup is not None
    is_itself = asker.session is not None and asker.session.name == session.name
    if must_be_inside and not is_itself and not asker.is_root:
        raise RefusedError(
            f"session {session.name}: only a process of that very session gets its certificates"
        )


def _services(node: Node, session: Session) -> list[str]:
    policy = node.member.snapshot.policy
    bindings = policy.bindings_on(node.name) if policy else ()
    mine = {one.service for one in bindings if one.agent == session.id.name and one.callers is Callers.MTLS}
    return sorted(mine & session.narrowing.services if session.narrowing else mine)
