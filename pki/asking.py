"""The bodies of an escalation's statements: what a session asks for, what operators answer, what it becomes.

request   the session signs what it asks for; nothing follows from it alone
approval  an operator agrees to exactly these bytes: the answer carries the digest of the request's payload
refusal   the same against it, for good
lease     the CA's word that it is granted; it carries the whole request, so that it stands alone
"""

from typing import Annotated

import msgspec

from pki.clock import DAY, HOUR, MINUTE
from pki.errors import RemoteError
from pki.fields import Sequence, Sha256Hex, Text, Texts, Wire

PENDING = HOUR
"""How long a request waits for its answers (us)."""
MAX_LEASE = DAY
MAX_USES = 1_000
MAX_SERVICES = 32
MAX_OPERATIONS = 16
MAX_OPERATION_CHARS = 200
NONCE_BYTES = 16
MAX_REQUEST_BYTES = 32_768
"""Of the envelope inside a lease."""

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")]
OperationText = Annotated[str, msgspec.Meta(max_length=MAX_OPERATION_CHARS)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]


class EscalationRequest(Wire, frozen=True):
    """What a session asks for. Times in microseconds.

    ``uid``: of who started it, by its node's word. ``operations`` None: all; ``arguments``: SHA-256 of the one set of
    MCP arguments, or empty. ``uses`` 0: as often as it likes; else so often, at ``tool_node`` alone. ``policy``:
    digest of the policy that it was made under. ``decide_by``: what is not granted by then never is.
    """

    session: Text
    uid: Sequence
    rule: Name
    services: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=MAX_SERVICES)]
    operations: Annotated[list[OperationText], msgspec.Meta(min_length=1, max_length=MAX_OPERATIONS)] | None
    arguments: Digest
    tool_node: Annotated[str, msgspec.Meta(max_length=63)]
    uses: Annotated[int, msgspec.Meta(ge=0, le=MAX_USES)]
    ttl: Annotated[int, msgspec.Meta(ge=1, le=MAX_LEASE)]
    reason: Text
    policy: Sha256Hex
    decide_by: Sequence
    nonce: Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]


class Answer(Wire, frozen=True):
    """Approval and refusal: of the request whose payload has this SHA-256."""

    request: Sha256Hex
    message: Text = ""


class Lease(Wire, frozen=True):
    """A request that is granted until ``until``; ``approvers`` are the names of the operators that it rests on."""

    request: Annotated[bytes, msgspec.Meta(max_length=MAX_REQUEST_BYTES)]
    until: Sequence
    approvers: Texts


def check_request(body: EscalationRequest, issued: int, expires: int) -> None:
    """What no request may say, whoever signs it; raises RemoteError."""
    if not issued < body.decide_by <= issued + PENDING:
        raise RemoteError("statement request: waits for at most an hour")
    # Kept for as long as what may rest on it, and no longer: else each would fill a place for ever.
    if expires != body.decide_by + body.ttl:
        raise RemoteError("statement request: expires when the last lease on it could end")
    if bool(body.tool_node) != bool(body.uses):
        raise RemoteError(
            "statement request: a number of uses is counted at one tool node, and named with it"
        )


ANSWER_LIFE = PENDING + MAX_LEASE + MINUTE
"""The longest that an answer can matter."""
