import hashlib
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgpack
import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from pki import codec
from pki.chain import MAX_CHAIN_CERTIFICATES
from pki.clock import HOUR
from pki.errors import RemoteError
from pki.fields import MAX_ITEMS, MAX_MESSAGE_CHARS, Wire
from pki.ids import digest_id
from pki.statement import (
    KINDS,
    MAX_STATEMENT_BYTES,
    Applied,
    Cutoff,
    Demand,
    Envelope,
    Lift,
    Lock,
    Member,
    Node,
    Operator,
    Payload,
    Receipt,
    Revocation,
    Signer,
    Statement,
    Target,
    Terms,
    parse,
    sign,
    signature_holds,
)
from tests.authority import NOW, SESSION, new_key

KEY = new_key()
CHAIN = (b"leaf", b"issuer")
TERMS = Terms(epoch=1, issued=NOW, expires=NOW + HOUR, number=7)
LOCK = Lock(target=Target(kind="all"), message="stop")
SIGNED = sign("lock", LOCK, TERMS, KEY, CHAIN)

PAYLOAD: dict[str, Any] = {
    "kind": "lock",
    "epoch": 1,
    "number": 0,
    "issued": NOW,
    "expires": NOW + HOUR,
    "body": {"target": {"kind": "all", "value": ""}, "message": ""},
}


def envelope(payload: bytes, **changes: object) -> bytes:
    """An envelope around these payload bytes; nobody checks its signature."""
    return bytes(msgpack.packb({"payload": payload, "signature": b"s", "chain": [b"leaf"], **changes}))


def with_payload(**changes: object) -> bytes:
    return envelope(msgpack.packb({**PAYLOAD, **changes}))


def test_a_statement_says_what_was_signed() -> None:
    """Body, terms and chain come back from the bytes that travel."""
    again = parse(SIGNED.raw)
    assert again == SIGNED
    assert (again.kind, again.body) == ("lock", LOCK)
    terms = again.payload
    assert (terms.epoch, terms.number, terms.issued, terms.expires) == (1, 7, NOW, NOW + HOUR)
    assert tuple(again.envelope.chain) == CHAIN


def test_the_id_is_over_the_payload_and_nothing_else() -> None:
    """Whoever re-encodes a signature, or presents another chain, makes no second statement."""
    assert SIGNED.digest == hashlib.sha256(SIGNED.envelope.payload).digest()
    assert SIGNED.id == digest_id(SIGNED.digest)
    other = parse(envelope(SIGNED.envelope.payload, chain=[b"x"]))
    assert other.raw != SIGNED.raw
    assert other.id == SIGNED.id


@pytest.mark.parametrize(
    "terms", [replace(TERMS, epoch=2), replace(TERMS, number=8), replace(TERMS, issued=NOW + 1)], ids=repr
)
def test_two_statements_that_differ_have_two_ids(terms: Terms) -> None:
    """Epoch, number and times are part of what is said."""
    assert sign("lock", LOCK, terms, KEY, CHAIN).id != SIGNED.id


def test_a_signature_holds_for_its_key_alone() -> None:
    """And for these exact bytes alone."""
    assert signature_holds(SIGNED, KEY.public_key())
    assert not signature_holds(SIGNED, new_key().public_key())
    changed = parse(envelope(msgpack.packb(PAYLOAD), signature=SIGNED.envelope.signature))
    assert not signature_holds(changed, KEY.public_key())
    torn = parse(envelope(SIGNED.envelope.payload, signature=SIGNED.envelope.signature[:-1]))
    assert not signature_holds(torn, KEY.public_key())


def test_a_signature_for_one_kind_is_worthless_for_another() -> None:
    """The prefix names the kind: the same body bytes under another kind are another message."""
    payload = SIGNED.envelope.payload
    bare = KEY.sign(payload, ec.ECDSA(hashes.SHA256()))
    other = KEY.sign(b"lockgate/statement/unlock/v1\0" + payload, ec.ECDSA(hashes.SHA256()))
    own = KEY.sign(b"lockgate/statement/lock/v1\0" + payload, ec.ECDSA(hashes.SHA256()))
    held = [
        signature_holds(parse(envelope(payload, signature=each)), KEY.public_key())
        for each in (bare, other, own)
    ]
    assert held == [False, False, True]


@pytest.mark.parametrize("where", ["envelope", "payload"])
def test_duplicate_keys_are_refused(where: str) -> None:
    """Of two equal keys one reader takes the first and another the last."""
    packed = msgpack.packb(PAYLOAD)
    twice = bytes([packed[0] + 1]) + packed[1:] + msgpack.packb("kind") + msgpack.packb("unlock")
    outer = envelope(packed)
    outer_twice = bytes([outer[0] + 1]) + outer[1:] + msgpack.packb("payload") + msgpack.packb(b"")
    with pytest.raises(RemoteError, match="not valid MessagePack"):
        parse(outer_twice if where == "envelope" else envelope(twice))


def test_the_size_cap_is_on_all_that_travels() -> None:
    """64 KiB with signature and chain; one byte more is refused before decoding."""
    payload = msgpack.packb({**PAYLOAD, "kind": "later"})
    three = [b"x" * 16_384] * 3
    last = b"x" * 10_000
    last += b"x" * (MAX_STATEMENT_BYTES - len(envelope(payload, chain=[*three, last])))
    assert parse(envelope(payload, chain=[*three, last])).kind == "later"
    with pytest.raises(RemoteError, match=f"{MAX_STATEMENT_BYTES + 1} bytes, at most {MAX_STATEMENT_BYTES}"):
        parse(envelope(payload, chain=[*three, last + b"x"]))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x80",
        msgpack.packb([]),
        msgpack.packb({"payload": b"", "signature": b""}),
        envelope(b""),
        envelope(msgpack.packb(PAYLOAD), more=1),
        envelope(msgpack.packb(PAYLOAD), chain=[]),
        envelope(msgpack.packb(PAYLOAD), chain=[b"x"] * (MAX_CHAIN_CERTIFICATES + 1)),
        envelope(msgpack.packb(PAYLOAD), chain=[b"x" * 16_385]),
        envelope(msgpack.packb(PAYLOAD), chain=["text"]),
        envelope(msgpack.packb(PAYLOAD), signature=b"x" * 129),
        with_payload(more=1),
        with_payload(kind=""),
        with_payload(kind="Lock"),
        with_payload(kind="lock/v1\0"),
        with_payload(kind="lock\nforged"),
        with_payload(kind="x" * 64),
        with_payload(epoch=-1),
        with_payload(epoch=2**53),
        with_payload(epoch=1.0),
        with_payload(epoch=True),
        with_payload(number=-1),
        with_payload(issued=None),
        with_payload(expires=NOW),
        with_payload(expires=NOW - 1),
        with_payload(body=[]),
        with_payload(body={}),
        with_payload(body={"target": {"kind": "all"}, "more": 1}),
        with_payload(body={"target": {"kind": "world"}}),
        with_payload(body={"target": {"kind": "all"}, "message": "x" * (MAX_MESSAGE_CHARS + 1)}),
    ],
    ids=range(30),
)
def test_what_is_out_of_shape_is_a_remote_error(raw: bytes) -> None:
    """Every field has a type and a range, and nothing may stand beside them."""
    with pytest.raises(RemoteError, match=r"^statement") as caught:
        parse(raw)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("kind", "value", "good"),
    [
        ("all", "", True),
        ("all", "x", False),
        ("segment", "high-risk", True),
        ("segment", "High", False),
        ("service", "wiki", True),
        ("service", "", False),
        ("agent", "researcher", True),
        ("agent", "a/b", False),
        ("node", "tools-1", True),
        ("node", "tools-1\n", False),
        ("operator", "alice", True),
        ("operator", "-", False),
        ("session", SESSION, True),
        ("session", SESSION[:-1], False),
        ("id", f"spiffe://example.org/agent/researcher/agents-1/{SESSION}", True),
        ("id", "spiffe://example.org/node/agents-1", False),
        ("id", SESSION, False),
        ("serial", "0", True),
        ("serial", "ab" * 20, True),
        ("serial", "ab" * 20 + "c", False),
        ("serial", "", False),
        ("serial", "AB", False),
    ],
)
def test_a_target_is_of_its_kind(kind: Any, value: str, good: bool) -> None:
    """A stop that could match nothing is refused, so that nobody believes it is in force."""
    target = Target(kind=kind, value=value)
    raw = with_payload(body=msgspec.to_builtins(Lock(target=target)))
    if good:
        assert isinstance(body := parse(raw).body, Lock)
        assert str(body.target) == (f"{kind}:{value}" if value else kind)
    else:
        with pytest.raises(RemoteError):
            parse(raw)


def test_everything_cannot_be_revoked() -> None:
    """`all` is for locks, which end."""
    with pytest.raises(RemoteError, match="not a target: all"):
        sign("revocation", Revocation(target=Target(kind="all")), TERMS, KEY, CHAIN)


@pytest.mark.parametrize("kind", ["all", "segment", "service", "serial"])
def test_a_cutoff_is_of_what_has_one_certificate_after_the_other(kind: str) -> None:
    """Nothing else has certificates that were issued before and after."""
    target = Target(kind=kind, value="" if kind == "all" else "ab")  # type: ignore[arg-type]  # all of them kinds
    with pytest.raises(RemoteError, match="not a target"):
        sign("cutoff", Cutoff(target=target, before=NOW), TERMS, KEY, CHAIN)


def test_a_kind_that_is_not_applied_here_is_kept_as_it_came() -> None:
    """Its body is not looked into: a later version knows what it means."""
    kind = "from-the-future"
    statement = parse(with_payload(kind=kind, body={"anything": [1, {"deep": b"x"}]}))
    assert statement.body is None
    assert statement.kind == kind


@pytest.mark.parametrize(
    "body",
    [
        Member(
            member=Node(
                sequence=1, name="n", addresses=["127.0.0.1:7443"], version="1", features=[], labels=[]
            )
        ),
        Member(member=Operator(sequence=1, name="alice", key="ab" * 32, roles=["admin"])),
        Lift(ids=[SIGNED.id], demand=b"raw"),
        Demand(action="unlock", ids=[SIGNED.id] * MAX_ITEMS),
        Receipt(applied=[Applied(id=SIGNED.id, since=NOW, cut=3)]),
    ],
    ids=["node", "operator", "lift", "demand", "receipt"],
)
def test_bodies_come_back_as_they_went(body: Wire) -> None:
    """Unions, bytes and lists included."""
    kind = next(row.name for row in KINDS.values() if row.body is type(body))
    assert sign(kind, body, TERMS, KEY, CHAIN).body == body


@pytest.mark.parametrize(
    "body", [Lift(ids=[]), Lift(ids=["x"]), Demand(action="unlock", ids=[SIGNED.id] * (MAX_ITEMS + 1))]
)
def test_lists_of_ids_have_a_least_and_a_most(body: Wire) -> None:
    """A lift of nothing, and one that is too long to be meant, are mistakes."""
    with pytest.raises(RemoteError):
        sign("unlock" if isinstance(body, Lift) else "demand", body, TERMS, KEY, CHAIN)


def test_the_registry_names_who_may_sign_what() -> None:
    """The table of the design, row by row: a change here is a change of who has power."""
    ca, node, responder = Signer.CA, Signer.NODE, Signer.RESPONDER
    assert {name: set(kind.signers) for name, kind in KINDS.items()} == {
        "bundle": {Signer.ROOT},
        "policy": {ca},
        "canary": {ca},
        "member": {ca},
        "heartbeat": {ca},
        "adoption": {ca},
        "unlock": {ca},
        "unrevoke": {ca},
        "cutoff": {ca},
        "lease": {ca},
        "lock": {ca, responder},
        "revocation": {ca, responder, node},
        "demand": {responder, Signer.ADMIN},
        "approval": {Signer.APPROVER},
        "refusal": {Signer.CA, Signer.APPROVER},
        "receipt": {node},
        "audit-head": {node},
        "rollover-ack": {node},
        "finding": {node},
        "request": {Signer.SESSION},
    }
    assert {name for name, kind in KINDS.items() if kind.restriction} == {
        "lock",
        "refusal",
        "revocation",
        "cutoff",
        "finding",
    }
    assert all(name == kind.name for name, kind in KINDS.items())


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.binary(max_size=200) | JUNK.map(msgpack.packb) | JUNK.map(lambda junk: envelope(msgpack.packb(junk)))
)
def test_any_bytes_give_a_statement_or_a_remote_error(raw: bytes) -> None:
    """Nothing else gets out of the parser."""
    with suppress(RemoteError):
        assert isinstance(parse(raw), Statement)


@given(st.sampled_from(sorted(PAYLOAD)), JUNK)
def test_any_field_can_hold_anything_and_nothing_breaks(field: str, junk: object) -> None:
    """Near misses reach further than random bytes."""
    with suppress(RemoteError):
        assert isinstance(parse(with_payload(**{field: junk})), Statement)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_no_bit_of_what_was_signed_can_change(at: int, bit: int) -> None:
    """A flipped bit is refused by the parser, or by the signature."""
    payload = bytearray(SIGNED.envelope.payload)
    payload[at % len(payload)] ^= 1 << bit
    with suppress(RemoteError):
        changed = parse(envelope(bytes(payload), signature=SIGNED.envelope.signature))
        assert not signature_holds(changed, KEY.public_key())


def test_what_is_verified_is_what_was_received() -> None:
    """A payload encoded otherwise than we would is judged by its own bytes."""
    unusual = msgpack.packb({key: PAYLOAD[key] for key in reversed(PAYLOAD)})
    assert unusual != codec.encode(msgspec.convert(PAYLOAD, Payload))
    signature = KEY.sign(b"lockgate/statement/lock/v1\0" + unusual, ec.ECDSA(hashes.SHA256()))
    statement = parse(codec.encode(Envelope(payload=unusual, signature=signature, chain=[b"leaf"])))
    assert signature_holds(statement, KEY.public_key())
