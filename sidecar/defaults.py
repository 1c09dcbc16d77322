"""The defaults and limits that operators can set or that several modules share. Durations are microseconds, sizes bytes.

Limits of a signed format (certificates, statements) stand beside that format in `pki`, the timing of one mechanism at
the top of its module.
"""

from pki.clock import DAY, HOUR, MINUTE, SECOND

KIB = 1024
MIB = 1024 * KIB

# Ports
OVERLAY_PORT = 7443
CA_PORT = 7444
CA_CONTROL_PORT = 7446

# Certificates
SESSION_LIFETIME = HOUR
NODE_LIFETIME = DAY
OPERATOR_LIFETIME = 12 * HOUR
CHILD_LIFE = HOUR
CHILD_MAX_LIFE = DAY
"""Of a child session, which has no certificate; it ends with its session in any case."""
TOKEN_MAX_LIFETIME = 7 * DAY
ID_TOKEN_MAX_AGE = HOUR
"""How long ago a user may have logged in, for a session on their behalf."""

# Time and freshness
SKEW = MINUTE
"""How far wall time and the mesh's time may be apart."""
HEARTBEAT_INTERVAL = SECOND
RETENTION = MINUTE
"""How long a statement is kept after its expiry."""

# Locks and receipts
OPERATOR_LOCK_MAX_TTL = 4 * HOUR
OPERATOR_LIVE_STATEMENTS = 200

# Gossip
REPAIR_PEERS = 5

# Handshakes and streams
HANDSHAKES_PER_ADDRESS = 32
HANDSHAKES = 256
STREAMS = 4096
READ_REQUESTS = 1024
MUTATE_REQUESTS = 256
"""Requests of http and mcp services under way at one time at a tool's node, by class."""
HELD_BYTES = 256 * 1024 * 1024
"""Memory for bodies of requests and answers that are read whole, of all streams together."""
BODY = 30 * SECOND
"""In which a body that is decided on must have come."""
HALF_CLOSE_IDLE = MINUTE
STREAM_IDLE = HOUR
STREAM_LIFETIME = DAY
STALE_CUT_FACTOR = 2
"""Live streams of a segment with ``on-stale = "cut"`` end at this many times its stale-after."""

# Pooled connections
CONNECTION_PROOFS = 100

# Audit
AUDIT_VOLUME_BYTES = 64 * MIB
AUDIT_RESERVE_BYTES = 4 * MIB

# Daemon
DRAIN = 30 * SECOND

# Files that humans write
TOML_BYTES = MIB
POLICY_BYTES = 32 * MIB
"""Of a policy that a program wrote: `policy apply --large`."""
POLICY_PAIRS = 1_000_000
"""How many (agent, service or segment) pairs the rules of one policy may name in all: about 150 MB once indexed."""
