from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki import codec
from pki.clock import HOUR, MINUTE, Wall
from pki.errors import RemoteError
from pki.ids import is_id, new_id
from pki.verify import Identity, verify
from sidecar import wire
from sidecar.policy.narrowing import Narrowing
from sidecar.policy.operation import Operation
from sidecar.session.narrowing import check, child_id, make, read, require_narrower, sign
from sidecar.wire import MAX_CHILD_DEPTH, Narrowed
from tests.authority import NOW, new_key
from tests.statements import Mint

MINT = Mint()
MEMBER = MINT.member(MINT.ca.agent(node="agents-1"))
SESSION = MEMBER.id.session
NONCE, OTHER_NONCE = bytes(16), bytes(15) + b"\1"

WIDE = Narrowing(frozenset({"wiki", "tickets"}), ("GET /api/**", "PUT /api/x"), Wall(NOW + HOUR))
NARROW = Narrowing(frozenset({"wiki"}), ("GET /api/pages",), Wall(NOW + MINUTE))


def identity() -> Identity:
    found = verify(MEMBER.chain, MINT.ca.bundle, NOW)
    assert isinstance(found, Identity)
    return found


IDENTITY = identity()


def steps(*lefts: Narrowing) -> list[bytes]:
    """The bodies of a chain from the session down."""
    bodies: list[bytes] = []
    for left in lefts:
        bodies.append(make(child_id(bodies[-1]) if bodies else SESSION, left, NONCE))
    return bodies


FIRST, SECOND = steps(WIDE, NARROW)


def test_a_child_is_proven_by_the_steps_to_it() -> None:
    """What the last leaves, with the ids of all on the way: the child's own comes last."""
    left = check(sign([FIRST, SECOND], MEMBER.key), IDENTITY)
    assert left == replace(NARROW, children=(child_id(FIRST), child_id(SECOND)))
    assert all(map(is_id, left.children))


def test_two_children_with_equal_rights_are_two() -> None:
    """Their records must not be mixed up, nor one be ended with the other."""
    assert child_id(make(SESSION, WIDE, NONCE)) != child_id(make(SESSION, WIDE, OTHER_NONCE))


def test_a_child_of_a_renewed_session_keeps_its_id() -> None:
    """Another key signs the same bytes."""
    once, again = sign([FIRST], MEMBER.key), sign([FIRST], MEMBER.key)
    assert once[0].signature != again[0].signature
    assert check(once, IDENTITY) == check(again, IDENTITY)


@pytest.mark.parametrize("which", [0, 1])
def test_each_step_must_be_signed_by_the_session(which: int) -> None:
    """A child cannot widen itself: it has no key, and another's is no good."""
    forged, good = sign([FIRST, SECOND], new_key()), sign([FIRST, SECOND], MEMBER.key)
    good[which] = forged[which]
    with pytest.raises(RemoteError, match="not signed by spiffe://"):
        check(good, IDENTITY)


def test_a_signature_is_worth_its_own_step_only() -> None:
    """Moved to another body, it fails."""
    first, second = sign([FIRST, SECOND], MEMBER.key)
    mixed = [
        Narrowed(body=FIRST, signature=second.signature),
        Narrowed(body=SECOND, signature=first.signature),
    ]
    with pytest.raises(RemoteError, match="not signed"):
        check(mixed, IDENTITY)


@pytest.mark.parametrize(
    "bodies",
    [[SECOND, FIRST], [SECOND], [FIRST, FIRST], [FIRST, make(SESSION, NARROW, NONCE)]],
    ids=["swapped", "left-out", "twice", "a-sibling"],
)
def test_the_steps_come_whole_and_in_order(bodies: list[bytes]) -> None:
    """Each names what it narrows by an id that only that step can have."""
    with pytest.raises(RemoteError, match="a step is not of"):
        read(bodies, SESSION)


def test_a_step_of_another_session_is_none_of_this_one() -> None:
    """Two sessions of one node: the rights of one are not narrowed into rights of the other."""
    with pytest.raises(RemoteError, match="a step is not of"):
        read(steps(WIDE), new_id(b"another-session-"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (replace(NARROW, services=frozenset({"wiki", "vault"})), "service vault is not its parent's"),
        (replace(NARROW, operations=None), "operations are more"),
        (replace(NARROW, operations=("PUT /api/y",)), "operations are more"),
        (replace(NARROW, not_after=Wall(WIDE.not_after + 1)), "lasts longer"),
    ],
)
def test_a_step_that_widens_is_refused_with_the_whole_chain(more: Narrowing, said: str) -> None:
    """Signed or not: what would have to be cut down again was not meant well."""
    with pytest.raises(RemoteError, match=said):
        check(sign(steps(WIDE, more), MEMBER.key), IDENTITY)


def test_equal_rights_are_no_wider() -> None:
    """A child may have all that its parent has."""
    require_narrower(WIDE, WIDE)


@pytest.mark.parametrize("count", [0, MAX_CHILD_DEPTH + 1])
def test_a_chain_has_so_many_steps_and_no_more(count: int) -> None:
    """Each costs a signature to check."""
    with pytest.raises(RemoteError, match="1 to 4 are allowed"):
        read(steps(*[WIDE] * count), SESSION)
    assert len(read(steps(*[WIDE] * MAX_CHILD_DEPTH), SESSION).children) == MAX_CHILD_DEPTH


def test_a_chain_that_has_run_out_is_still_true() -> None:
    """The decision refuses it, by the time that decisions are made by; nobody's connection is broken for it."""
    past = replace(NARROW, not_after=Wall(1))
    assert read(steps(past), SESSION).not_after == 1


FIELDS = {"parent": SESSION, "nonce": NONCE, "services": ["wiki"], "operations": None, "not_after": NOW}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        FIRST[:-1],
        FIRST + b"\0",
        bytes(wire.MAX_NARROWING_BYTES + 1),
        codec.encode({**FIELDS, "extra": 1}),
        codec.encode({**FIELDS, "nonce": bytes(15)}),
        codec.encode({**FIELDS, "services": []}),
        codec.encode({**FIELDS, "services": ["Wiki"]}),
        codec.encode({**FIELDS, "services": ["wiki"] * (wire.MAX_NARROWING_SERVICES + 1)}),
        codec.encode({**FIELDS, "operations": ["GET /*/x"]}),
        codec.encode({**FIELDS, "operations": ["GET /" + "x" * wire.MAX_OPERATION_CHARS]}),
        codec.encode({**FIELDS, "operations": ["GET /x"] * (wire.MAX_NARROWING_OPERATIONS + 1)}),
        codec.encode({**FIELDS, "not_after": -1}),
        codec.encode({key: value for key, value in FIELDS.items() if key != "not_after"}),
    ],
)
def test_a_step_out_of_shape_is_refused(body: bytes) -> None:
    """Sizes first, then every field by name."""
    with pytest.raises(RemoteError, match="narrowing"):
        read([body], SESSION)


@given(st.lists(st.binary(max_size=200), max_size=5), st.binary(max_size=128))
def test_any_bytes_are_a_narrowing_or_the_peers_fault(bodies: list[bytes], signature: bytes) -> None:
    """Nothing that a peer sends raises anything else."""
    with pytest.raises(RemoteError):
        read(bodies, SESSION)
    with pytest.raises(RemoteError):
        check([Narrowed(body=body, signature=signature) for body in bodies], IDENTITY)


SERVICES = st.frozensets(st.sampled_from(["wiki", "tickets", "vault"]), min_size=1)
NAMES = st.sampled_from(["/", "/a", "/a/b", "/ab"])
OPERATIONS = st.none() | st.lists(
    st.builds("{} {}{}".format, st.sampled_from(["GET", "*"]), NAMES, st.sampled_from(["", "*", "**"])),
    max_size=2,
).map(tuple)
RIGHTS = st.builds(Narrowing, SERVICES, OPERATIONS, st.integers(0, 3).map(Wall))


@given(st.lists(RIGHTS, min_size=1, max_size=MAX_CHILD_DEPTH), st.sampled_from(["GET", "PUT"]), NAMES)
def test_the_rights_of_a_chain_are_the_intersection(chain: list[Narrowing], method: str, name: str) -> None:
    """Where a chain is taken at all, its end leaves exactly what every step of it leaves."""
    try:
        left = read(steps(*chain), SESSION)
    except RemoteError:
        return
    assert left.services == frozenset.intersection(*(one.services for one in chain))
    assert left.not_after == min(one.not_after for one in chain)
    call = Operation(method, name)
    assert left.leaves(call) is all(one.leaves(call) for one in chain)
