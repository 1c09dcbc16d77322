"""The tables and views that `lockgate audit ship` keeps in a PostgreSQL: the statements, and nothing that runs them."""

COLUMNS = (
    "node", "volume", "seq", "chain", "at", "kind", "role", "agent", "session", "service", "verdict", "reason", "rule",
    "line", "body",
)  # fmt: skip
"""Of a record. ``line`` is what stands in the log, byte for byte; ``body`` the same to be asked."""

TABLES = """
CREATE SCHEMA IF NOT EXISTS lockgate_audit;
CREATE TABLE IF NOT EXISTS lockgate_audit.records (
    node text NOT NULL,
    volume text NOT NULL,
    seq bigint NOT NULL,
    chain text NOT NULL,
    at timestamptz NOT NULL,
    kind text NOT NULL,
    role text,
    agent text,
    session text,
    service text,
    verdict text,
    reason text,
    rule text,
    line text NOT NULL,
    body jsonb NOT NULL,
    PRIMARY KEY (node, volume, seq)
);
CREATE INDEX IF NOT EXISTS records_at ON lockgate_audit.records (at);
CREATE INDEX IF NOT EXISTS records_session ON lockgate_audit.records (session);

CREATE OR REPLACE VIEW lockgate_audit.actions AS
SELECT *, coalesce((body ->> 'count')::bigint, 1) AS times FROM lockgate_audit.records
WHERE kind = 'request'
   OR (kind = 'denied' AND body ? 'request')
   OR (kind IN ('admitted', 'denied', 'shed') AND (role IN ('agent', 'both') OR kind <> 'admitted'));
COMMENT ON VIEW lockgate_audit.actions IS 'Streams and requests; a stream that both nodes let in counts once.';

CREATE OR REPLACE VIEW lockgate_audit.refusals AS
SELECT at, node, agent, session, service, body -> 'operation' ->> 'method' AS method,
       body -> 'operation' ->> 'name' AS name, reason, rule, body ->> 'hint' AS hint, times
FROM lockgate_audit.actions WHERE kind IN ('denied', 'shed');

CREATE OR REPLACE VIEW lockgate_audit.would_deny AS
SELECT at, node, agent, session, service, body -> 'operation' ->> 'method' AS method,
       body -> 'operation' ->> 'name' AS name, reason, rule, times
FROM lockgate_audit.actions WHERE verdict = 'would_deny';

CREATE OR REPLACE VIEW lockgate_audit.by_agent AS
SELECT agent, sum(times) FILTER (WHERE kind = 'admitted') AS streams,
       sum(times) FILTER (WHERE kind = 'request') AS requests,
       sum(times) FILTER (WHERE kind IN ('denied', 'shed')) AS refusals, min(at) AS first_at, max(at) AS last_at
FROM lockgate_audit.actions WHERE agent IS NOT NULL GROUP BY agent;

CREATE OR REPLACE VIEW lockgate_audit.by_service AS
SELECT service, sum(times) FILTER (WHERE kind = 'admitted') AS streams,
       sum(times) FILTER (WHERE kind = 'request') AS requests,
       sum(times) FILTER (WHERE kind IN ('denied', 'shed')) AS refusals, min(at) AS first_at, max(at) AS last_at
FROM lockgate_audit.actions WHERE service IS NOT NULL GROUP BY service;
"""

SHIPPED = """
SELECT DISTINCT ON (volume) volume, seq, chain FROM lockgate_audit.records WHERE node = %s ORDER BY volume, seq DESC
"""
"""The last record of each volume that is there: its chain value stands for all before it."""

ARRIVING = "CREATE TEMP TABLE arriving (LIKE lockgate_audit.records) ON COMMIT DROP"
COPY = f"COPY arriving ({', '.join(COLUMNS)}) FROM STDIN"

TAKE = "INSERT INTO lockgate_audit.records SELECT * FROM arriving ON CONFLICT DO NOTHING"

OTHERS = """
SELECT volume, seq FROM arriving JOIN lockgate_audit.records AS held USING (node, volume, seq)
WHERE held.chain <> arriving.chain ORDER BY volume, seq LIMIT 1
"""
"""A place at which the database holds another record than the log: one of both was forged."""
