"""docs/wire.md says what the code does: its tables are compared with the tables in the code."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pki.authority import service
from pki.certificate import LINEAGE, ON_BEHALF_OF, STATEMENT_SIGNING
from pki.framing import MAX_FRAME_BODY
from pki.statement import KINDS, MAX_STATEMENT_BYTES
from pki.token import MAX_TOKEN_CHARS
from sidecar import defaults, objects, wire
from sidecar.audit.record import MAX_RECORD_BYTES, Kind
from sidecar.gossip import flood, quota, texts
from sidecar.proxy import proof
from sidecar.reasons import Reason
from sidecar.session import narrowing
from sidecar.wire import Feature, FrameType
from tests.wire_tables import WIRE, section, table

ROOT = Path(__file__).parents[1]

PHASES = {"hello": wire.HELLO_LIMITS, "stream": wire.STREAM_LIMITS, "control": wire.CONTROL_LIMITS}
SCHEMAS = wire.BODIES | {FrameType.HELLO: wire.Hello}


def test_frame_types_are_those_of_the_code() -> None:
    """Number, phase, limit and fields of each."""
    documented = {
        (int(number), name, phase, int(limit), tuple(words(fields)))
        for number, name, phase, limit, fields in table("Frame types")
    }
    spoken = {
        (int(kind), kind.name, phase, limit, fields_of(kind))
        for phase, limits in PHASES.items()
        for kind, limit in limits.items()
    }
    assert documented == spoken


def fields_of(kind: FrameType) -> tuple[str, ...]:
    schema = SCHEMAS.get(kind)
    return tuple(schema.__struct_fields__) if schema else ()


def words(cell: str) -> Iterator[str]:
    return (word.strip() for word in cell.split(",") if word.strip())


def test_kinds_of_statement_and_their_signers_are_those_of_the_code() -> None:
    """Who may sign what, what acts at once, what gets a receipt, and what is in it."""
    documented = {
        (kind, frozenset(words(signers)), applied, restricts, receipt, tuple(words(fields)))
        for kind, signers, applied, restricts, receipt, fields in table("Kinds")
    }
    registry = {
        (
            kind.name,
            frozenset(signer.value for signer in kind.signers),
            yes(kind.body is not None),
            yes(kind.restriction),
            yes(kind.acknowledged),
            tuple(kind.body.__struct_fields__) if kind.body else (),
        )
        for kind in KINDS.values()
    }
    assert documented == registry


def yes(it_is: bool) -> str:
    return "yes" if it_is else "no"


def test_every_reason_has_its_meaning() -> None:
    """In the order of the closed list, each in one line."""
    rows = table("Reasons")
    assert [name for name, _ in rows] == list(Reason)
    assert all(meaning for _, meaning in rows)


def test_every_kind_of_record_has_its_meaning() -> None:
    """In the order of the schema."""
    rows = table("Kinds of record")
    assert [name for name, _ in rows] == list(Kind)
    assert all(meaning for _, meaning in rows)


def test_private_identifiers_are_those_of_the_code() -> None:
    """A tool that reads our certificates needs them."""
    documented = [oid for oid, *_ in table("Private identifiers")]
    assert documented == [one.dotted_string for one in (LINEAGE, STATEMENT_SIGNING, ON_BEHALF_OF)]


def test_paths_of_the_ca_are_those_it_serves() -> None:
    """With whom each serves, as the API's own table has it."""
    served = re.findall(r"^\| ((?:GET|POST) \S+) \| (.*?) \|", service.__doc__ or "", re.MULTILINE)
    routes = re.findall(r'Route\("(.*?)", api\.\w+, methods=\["(\w+)"\]', Path(service.__file__).read_text())
    assert [tuple(row) for row in table("Paths")] == served
    assert [path for path, _ in served] == [f"{method} {path}" for path, method in routes]


def test_a_step_of_a_narrowing_is_that_of_the_code() -> None:
    """Its fields, and how many items or bytes each may hold."""
    documented = {field: int(limit or 0) for field, limit, _ in table("Fields of a step")}
    limits = {
        "nonce": 16,
        "services": wire.MAX_NARROWING_SERVICES,
        "operations": wire.MAX_NARROWING_OPERATIONS,
    }
    assert documented == {field: limits.get(field, 0) for field in wire.NarrowingBody.__struct_fields__}


def test_features_are_those_of_the_code() -> None:
    """What this version says in its HELLO."""
    found = re.search(r"Features of this version ✓: (.*?)\.$", WIRE, re.MULTILINE)
    assert found is not None
    assert tuple(re.findall(r"`(.*?)`", found[1])) == Feature.ALL


@pytest.mark.parametrize(
    ("heading", "said"),
    [
        ("Frames", f"at most {MAX_FRAME_BODY}"),
        ("Statements", f"at most {MAX_STATEMENT_BYTES} bytes"),
        ("Control links", f"parts of at most {flood.IDS_PER_PART}"),
        ("Control links", f"at most {flood.MAX_IDS}"),
        ("Control links", f"at most {texts.PART_BYTES} bytes"),
        ("Control links", f"to {defaults.REPAIR_PEERS} random peers"),
        ("Control links", f"after {flood.ASKED_TICKS} seconds"),
        ("Kinds", f"at most {objects.MAX_OBJECT_BYTES} bytes"),
        ("Kinds", f"at most {defaults.OPERATOR_LIVE_STATEMENTS} live statements"),
        ("Kinds", f"{quota.MEMBER_LIVE_STATEMENTS} of each kind"),
        ("PROVE", f'"{proof.PREFIX.decode()[:-1]}\\0"'),
        ("PROVE", f'"{proof.EXPORTER_LABEL.decode()}"'),
        ("PROVE", f"at most {defaults.CONNECTION_PROOFS} proofs"),
        ("Narrowing", f"at most {wire.MAX_CHILD_DEPTH}. The key"),
        ("Narrowing", f"at most {wire.MAX_NARROWING_BYTES} bytes"),
        ("Fields of a step", f"at most {wire.MAX_OPERATION_CHARS} characters"),
        ("Fields of a step", f'"{narrowing.PREFIX.decode()[:-1]}\\0"'),
        ("HELLO", f"| version | {wire.VERSION}."),
        ("Paths", f"At most {MAX_TOKEN_CHARS} characters"),
        ("Audit records", f"at most {MAX_RECORD_BYTES} bytes"),
        ("TLS", f"| {defaults.OVERLAY_PORT} | node |"),
        ("TLS", f"| {defaults.CA_PORT} | CA |"),
        ("TLS", f"| {defaults.CA_CONTROL_PORT} | CA |"),
    ],
)
def test_numbers_are_those_of_the_code(heading: str, said: str) -> None:
    """A limit that changes is changed in the document too."""
    assert said in section(heading)


def test_every_marked_table_is_compared() -> None:
    """A check mark is a promise."""
    marked = set(re.findall(r"^#+ (.*) ✓$", WIRE, re.MULTILINE))
    compared = {
        "Frame types",
        "Fields of a step",
        "Kinds",
        "Reasons",
        "Kinds of record",
        "Private identifiers",
        "Paths",
        "Statement rules",  # in tests/test_statement_rules.py
    }
    assert marked == compared
