"""Every default and limit of a sidecar, in one place. Durations are integer microseconds, sizes are bytes.

Limits that belong to a signed format (certificates, statements) stand beside that format in `pki`.
"""

from pki.clock import DAY, HOUR, MINUTE, SECOND

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
MILLISECOND = SECOND // 1000

# Ports
OVERLAY_PORT = 7443
CA_PORT = 7444
METRICS_PORT = 7445
CA_CONTROL_PORT = 7446

# Certificates
SESSION_LIFETIME = HOUR
NODE_LIFETIME = DAY
OPERATOR_LIFETIME = 12 * HOUR
RENEWAL_JITTER_PERCENT = 10
"""Leaves are renewed at half life, this much earlier or later."""
TOKEN_LIFETIME = 10 * MINUTE
TOKEN_MAX_LIFETIME = 7 * DAY

# Time and freshness
SKEW = MINUTE
"""How far wall time and the mesh's time may be apart."""
HEARTBEAT_INTERVAL = SECOND
RETENTION = MINUTE
"""How long a statement is kept after its expiry."""

# Locks and receipts
LOCK_TTL = HOUR
OPERATOR_LOCK_MAX_TTL = 4 * HOUR
RECEIPT_WAIT = 5 * SECOND
OPERATOR_LIVE_STATEMENTS = 200

# Gossip
FULL_MESH_NODES = 64
REPAIR_INTERVAL = SECOND
REPAIR_PEERS = 5
REDIAL_INTERVAL = SECOND

# Handshakes and streams
HANDSHAKE_DEADLINE = 5 * SECOND
HANDSHAKES_PER_ADDRESS = 32
HANDSHAKES = 256
STREAMS = 4096
HALF_CLOSE_IDLE = MINUTE
STREAM_IDLE = HOUR
STREAM_LIFETIME = DAY
KEEPALIVE_IDLE = 30 * SECOND
KEEPALIVE_INTERVAL = 10 * SECOND
KEEPALIVE_PROBES = 3
STALE_CUT_FACTOR = 2
"""Live streams of a segment with ``on-stale = "cut"`` end at this many times its stale-after."""

# Pooled connections
CONNECTION_STREAMS = 1000
CONNECTION_LIFETIME = HOUR
CONNECTION_BYTES = 64 * GIB
CONNECTION_PROOFS = 100

# Daemon
DRAIN = 30 * SECOND
BINDING_RETRY = 5 * SECOND

# Audit
AUDIT_FLUSH = 50 * MILLISECOND
"""Within this, a record of a best-effort segment is on disk."""
AUDIT_CUT_DEADLINE = 5 * SECOND
"""Within this, streams that need a record are cut once none can be written."""
AUDIT_VOLUME_BYTES = 64 * MIB
AUDIT_RESERVE_BYTES = 4 * MIB
CHECKPOINT_RECORDS = 1000
CHECKPOINT_INTERVAL = 10 * SECOND
FOLD_PER_SECOND = 10
"""Like refusals beyond this rate, per cause, become one record with a count."""
CUT_REASON_WAIT = SECOND

# Files that humans write
TOML_BYTES = MIB
POLICY_PAIRS = 1_000_000
"""How many (agent, service or segment) pairs the rules of one policy may name in all: about 150 MB once indexed."""
