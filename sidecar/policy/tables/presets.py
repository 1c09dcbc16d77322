"""The segments that are built in."""

from collections.abc import Mapping

PRESETS: Mapping[str, Mapping[str, object]] = {
    "retrieval": {
        "class": "read",
        "stale-after": "5m",
        "decision-ttl": "5s",
        "record": "metadata",
        "audit": "best-effort",
        "on-stale": "refuse",
    },
    "action": {
        "class": "mutate",
        "stale-after": "60s",
        "decision-ttl": "1s",
        "record": "metadata",
        "audit": "required",
        "on-stale": "refuse",
    },
    # Its record is to be "payload" once payloads can be recorded.
    "high-risk": {
        "class": "mutate",
        "stale-after": "15s",
        "decision-ttl": "0s",
        "record": "metadata",
        "audit": "required",
        "on-stale": "cut",
    },
}
