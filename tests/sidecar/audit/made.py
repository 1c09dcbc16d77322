"""One record of each kind, for tests of what reads records."""

from pki.clock import Wall
from sidecar.audit import record
from sidecar.audit.chain import Head
from sidecar.audit.checkpoint import Pen, sign
from sidecar.audit.record import (
    Answered,
    Caller,
    Ending,
    Kind,
    Record,
    Requested,
    Role,
    Ruling,
    Subject,
    Traffic,
)
from sidecar.reasons import Reason
from tests.auditlog import Keeper

AT = Wall(1_767_225_600_000_000)
ID = "b" * 26
DIGEST = "ab" * 32
TRACE = f"00-{'4b' * 16}-{'a2' * 8}-01"
STREAM = Subject(
    stream=ID,
    role=Role.TOOL,
    session="c" * 26,
    agent="researcher",
    service="wiki",
    segment="retrieval",
    peer="agents-1",
    trace=TRACE,
)
NO = Ruling(verdict="deny", reason=Reason.NO_GRANT, hint="no grant names vault", snapshot=DIGEST, engine="1")
YES = Ruling(
    verdict="allow",
    rule="read-wiki",
    decision={"service": "wiki", "tool_node": "tools-1", "line": 7},
    moment={"wall": AT, "floor": AT, "as_of": None},
    snapshot=DIGEST,
    engine="1",
    facts={"id": "spiffe://x/agent/a/n/s", "serials": ["0a"], "not_after": AT},
)
ASKED = Requested(
    request="d" * 26,
    operation={"method": "tools/call", "name": "search", "holds": ["$.q"]},
    operation_class="read",
    parent=TRACE,
    arguments=DIGEST,
    also=[{"method": "GET", "name": "/a"}],
)

signatory = Keeper().signatory

MADE: list[Record] = [
    record.volume(AT, "v.jsonl", {"volume": "u.jsonl", "seq": 1, "chain": DIGEST}),
    record.admitted(AT, STREAM, YES, Caller("cgroup", 1000, 5, "unix")),
    record.opened(AT, STREAM),
    record.request(AT, STREAM, YES, ASKED),
    record.answered(
        AT,
        STREAM,
        Answered(
            request="d" * 26, status=200, latency=9, bytes_in=0, bytes_out=5, unasked={"notifications/x": 2}
        ),
    ),
    record.denied(AT, STREAM, NO, Caller("uid", 0)),
    record.request_denied(AT, STREAM, NO, ASKED),
    record.closed(AT, STREAM, Traffic(1, 2)),
    record.cut(AT, STREAM, Ending(Reason.LOCKED, "lock-1", "said so"), Traffic(1, 2)),
    record.shed(AT, STREAM, Reason.LIMIT),
    record.session(AT, "started", "c" * 26, "researcher", {"uid": 1000}),
    Record(Kind.ESCALATION, AT, {"what": "requested", "request": "d" * 26}),
    record.lock(AT, "applied", ID, "all", {"by": "alice"}),
    record.revocation(AT, "applied", ID, "session:c"),
    record.policy(AT, "received", 3, DIGEST, {"by": "ca"}),
    record.renewal(AT, "renewed", "spiffe://x/node/n", "0a", AT),
    Record(Kind.ROLLOVER, AT, {"what": "prepared"}),
    record.reload(AT, "applied", {"needs_restart": ["listen"]}),
    record.finding(AT, "clone", {"peer": "agents-1"}),
    record.recovery(AT, "torn_line_set_aside", {"bytes": 3}),
    record.start(AT, "0.1"),
    record.stop(AT, "told to"),
    Pen(signatory, AT)(Head("v.jsonl", 9, bytes(32)), "")[0],
    Record(Kind.WITNESS, AT, {"of": "tools-1", **sign(signatory, Head("v.jsonl", 9, bytes(32)), AT).facts()}),
    record.retention(AT, "v.jsonl", {"records": 9, "last": DIGEST, "bytes": 900, "why": "age"}),
]
