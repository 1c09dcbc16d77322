"""A session's key and certificate: the key is made here and stays here, the CA names it."""

import base64
import secrets

import trio

from pki import keys, svid
from pki.bundle import TrustBundle
from pki.clock import Clock
from pki.errors import RemoteError
from pki.http.client import connect_ca
from pki.ids import ID_BYTES, new_id
from pki.spiffe import SpiffeId
from pki.spki import Key
from pki.verify import Identity, verify
from sidecar.address import Address
from sidecar.identity import Credential


async def enrol_session(
    agent: str, credential: Credential, bundle: TrustBundle, ca: Address, clock: Clock
) -> tuple[Identity, Key]:
    """A new session of ``agent`` on this node: its identity and key.

    Raises UnreachableError, RefusedError with the CA's reason, or RemoteError when what comes back is not what was
    asked for.
    """
    key = await trio.to_thread.run_sync(keys.generate)
    session = new_id(secrets.token_bytes(ID_BYTES))
    body = {"csr": base64.b64encode(svid.request(key)).decode(), "agent": agent, "session": session}
    async with await connect_ca(str(ca), bundle, credential.chain, credential.key, clock) as client:
        answer = await client.request("POST", "/v1/sessions", json=body)
    try:
        chain = [base64.b64decode(one, validate=True) for one in answer.json["chain"]]
    except (KeyError, TypeError, ValueError):
        raise RemoteError("CA: its answer holds no certificate chain") from None
    identity = verify(chain, bundle, clock.wall())
    expected = SpiffeId.for_agent(credential.id.trust_domain, agent, credential.id.node, session)
    if not isinstance(identity, Identity) or identity.id != expected:
        raise RemoteError(f"CA: the certificate it sent is not for {expected}")
    if identity.spki_sha256 != keys.spki_sha256(key.public_key()):
        raise RemoteError("CA: the certificate it sent is for another key")
    return identity, key
