"""What members ask the CA for: a node certificates of its sessions, and each its own next one.

The keys are made and stay here.
"""

import base64
from dataclasses import dataclass

import trio

from pki import keys, renewal, svid
from pki.bundle import TrustBundle
from pki.clock import Clock
from pki.errors import RemoteError
from pki.http.client import HttpClient, Response, connect_ca
from pki.spiffe import SpiffeId
from pki.spki import Key, spki_sha256
from pki.verify import Identity, verify
from sidecar.address import Address
from sidecar.identity import Credential


@dataclass(frozen=True, slots=True)
class CaAccess:
    """Where the CA is, whom we trust to be it, and who we are."""

    address: Address
    bundle: TrustBundle
    credential: Credential
    clock: Clock


async def certify_session(session: SpiffeId, id_token: str, ca: CaAccess) -> tuple[Identity, Key]:
    """The first certificate of a session on this node, for a new key, on behalf of ``id_token``'s user if there is one.

    Raises UnreachableError, RefusedError with the CA's reason, or RemoteError when what comes back is not what was
    asked for.
    """
    key = await trio.to_thread.run_sync(keys.generate)
    more = {"id_token": id_token} if id_token else {}
    return await _ask_session(session, key, more, ca), key


async def renew_session(own: Identity, key: Key, ca: CaAccess) -> Identity:
    """The next certificate of the session that ``own`` is of, for ``key``.

    To ask again is to ask for the same key: an answer that was lost is then given again, and another key would be
    taken for a copy of the certificate at work. Raises what :func:`certify_session` does.
    """
    return await _ask_session(own.id, key, {"renews": own.serial}, ca)


async def renew_node(key: Key, ca: CaAccess) -> Identity:
    """The next certificate of this node, for ``key``: over its valid one, or in grace once that has ended.

    Raises what :func:`certify_session` does.
    """
    csr = svid.request(key)
    own = verify(ca.credential.chain, ca.bundle, ca.clock.wall())
    if isinstance(own, Identity):
        async with await _connect(ca) as client:
            answer = await client.request("POST", "/v1/renew", json={"csr": csr})
    else:
        async with await connect_ca(str(ca.address), ca.bundle, (), None, ca.clock) as client:
            answer = await _ask_grace(client, csr, ca.credential)
    return _checked(answer, ca.credential.id, key, ca)


async def renew_operator(ca: CaAccess) -> Identity:
    """The next certificate of this operator, for the key it has.

    Raises what :func:`certify_session` does.
    """
    own = ca.credential
    async with await _connect(ca) as client:
        answer = await client.request("POST", "/v1/renew", json={"csr": svid.request(own.key)})
    return _checked(answer, own.id, own.key, ca)


async def _ask_session(session: SpiffeId, key: Key, more: dict[str, str], ca: CaAccess) -> Identity:
    body = {"csr": svid.request(key), "agent": session.name, "session": session.session, **more}
    async with await _connect(ca) as client:
        answer = await client.request("POST", "/v1/sessions", json=body)
    return _checked(answer, session, key, ca)


async def _ask_grace(client: HttpClient, csr: bytes, credential: Credential) -> Response:
    exporter = client.exporter(renewal.EXPORTER_LABEL, renewal.exporter_context(csr))
    signature = renewal.sign_grace(credential.key, exporter)
    body = {"csr": csr, "chain": list(credential.chain), "signature": signature}
    return await client.request("POST", "/v1/grace", json=body)


async def _connect(ca: CaAccess) -> HttpClient:
    return await connect_ca(str(ca.address), ca.bundle, ca.credential.chain, ca.credential.key, ca.clock)


def _checked(answer: Response, expected: SpiffeId, key: Key, ca: CaAccess) -> Identity:
    try:
        chain = [base64.b64decode(one, validate=True) for one in answer.json["chain"]]
    except (KeyError, TypeError, ValueError):
        raise RemoteError("CA: its answer holds no certificate chain") from None
    identity = verify(chain, ca.bundle, ca.clock.wall())
    if not isinstance(identity, Identity) or identity.id != expected:
        raise RemoteError(f"CA: the certificate it sent is not for {expected}")
    if identity.spki_sha256 != spki_sha256(key.public_key()):
        raise RemoteError("CA: the certificate it sent is for another key")
    return identity
