"""Records as events of the Open Cybersecurity Schema Framework, version 1.3.0, for whoever collects those. Pure.

    admitted, opened, closed, cut, shed, denied (a stream)    Network Activity [4001]
    request, answered, denied (a request)                     API Activity [6003]
    session started                                           Authorize Session [3003]
    lock, revocation, escalation                              User Access Management [3005]
    finding                                                   Detection Finding [2004]
    everything else                                           Base Event [0]

Each event carries the line that it was made of (``raw_data``): what has no place in the schema is not lost, and can be
proven in the log. The log's own records of itself (headers, checkpoints, witnesses) are no events.
"""

from collections.abc import Mapping
from typing import Any

from sidecar.audit.record import Kind
from sidecar.version import VERSION

OCSF = "1.3.0"

Event = dict[str, Any]
Line = Mapping[str, Any]

_NOT_EVENTS = frozenset({Kind.VOLUME, Kind.CHECKPOINT, Kind.WITNESS})
_CATEGORIES = {
    0: "Uncategorized",
    2: "Findings",
    3: "Identity & Access Management",
    4: "Network Activity",
    6: "Application Activity",
}
_CLASSES = {
    0: "Base Event",
    2004: "Detection Finding",
    3003: "Authorize Session",
    3005: "User Access Management",
    4001: "Network Activity",
    6003: "API Activity",
}
_ACTIVITIES = {
    4001: {1: "Open", 2: "Close", 3: "Reset", 5: "Refuse", 6: "Traffic"},
    6003: {1: "Create", 2: "Read", 3: "Update", 4: "Delete", 99: "Other"},
    3003: {1: "Assign Privileges"},
    3005: {1: "Assign Privileges", 2: "Revoke Privileges", 99: "Other"},
    2004: {1: "Create"},
    0: {99: "Other"},
}
_STREAM = {
    Kind.ADMITTED: 1,
    Kind.OPENED: 6,
    Kind.CLOSED: 2,
    Kind.CUT: 3,
    Kind.SHED: 5,
    Kind.DENIED: 5,
}
_METHODS = {"POST": 1, "GET": 2, "HEAD": 2, "OPTIONS": 2, "PUT": 3, "PATCH": 3, "DELETE": 4}
_INFORMATIONAL, _LOW, _MEDIUM, _HIGH = 1, 2, 3, 4
_SEVERITIES = {1: "Informational", 2: "Low", 3: "Medium", 4: "High"}


def event_of(one: Line, raw: str) -> Event | None:
    """The event of a record, ``raw`` its line; None for what is none."""
    kind = one.get("kind")
    if kind in _NOT_EVENTS or not isinstance(kind, str):
        return None
    made = _parts(kind, one)
    class_uid, activity = made.pop("class_uid"), made.pop("activity_id")
    refused = kind in (Kind.DENIED, Kind.CUT, Kind.SHED)
    severity = made.pop("severity_id", _LOW if refused else _INFORMATIONAL)
    return {
        "activity_id": activity,
        "activity_name": _ACTIVITIES[class_uid][activity],
        "category_uid": class_uid // 1000,
        "category_name": _CATEGORIES[class_uid // 1000],
        "class_uid": class_uid,
        "class_name": _CLASSES[class_uid],
        "type_uid": class_uid * 100 + activity,
        "type_name": f"{_CLASSES[class_uid]}: {_ACTIVITIES[class_uid][activity]}",
        "severity_id": severity,
        "severity": _SEVERITIES[severity],
        "time": one.get("at", 0) // 1000,
        "message": _message(kind, one),
        "metadata": _metadata(one),
        "raw_data": raw,
        **made,
        **_outcome(one, refused=refused),
    }


def _parts(kind: str, one: Line) -> Event:
    if "request" in one and kind in (Kind.REQUEST, Kind.ANSWERED, Kind.DENIED):
        return _api(one)
    if kind in _STREAM:
        return _network(Kind(kind), one)
    if kind == Kind.SESSION and one.get("what") == "started":
        return {"class_uid": 3003, "activity_id": 1, "privileges": ["agent session"], **_actor(one, "user")}
    if kind in (Kind.LOCK, Kind.REVOCATION, Kind.ESCALATION):
        return _access(kind, one)
    if kind == Kind.FINDING:
        info = {"uid": f"{one.get('node')}/{one.get('chain')}", "title": str(one.get("what", "finding"))}
        return {"class_uid": 2004, "activity_id": 1, "severity_id": _HIGH, "finding_info": info}
    return {"class_uid": 0, "activity_id": 99}


def _network(kind: Kind, one: Line) -> Event:
    made: Event = {
        "class_uid": 4001,
        "activity_id": _STREAM[kind],
        "src_endpoint": _present({"hostname": _near(one)}),
        "dst_endpoint": _present({"hostname": _far(one), "svc_name": one.get("service")}),
        "connection_info": _present({"uid": one.get("stream"), "direction_id": 0}),
        **_actor(one, "actor"),
    }
    if "bytes_in" in one:
        made["traffic"] = {"bytes_in": one["bytes_in"], "bytes_out": one["bytes_out"]}
    return made


def _api(one: Line) -> Event:
    operation = one.get("operation") or {}
    method = str(operation.get("method", ""))
    api: Event = {
        "operation": f"{method} {operation.get('name', '')}".strip() or "unknown",
        "request": {"uid": str(one.get("request"))},
        "service": _present({"name": one.get("service")}),
    }
    if one.get("status"):
        api["response"] = {"code": one["status"]}
    made: Event = {
        "class_uid": 6003,
        "activity_id": _METHODS.get(method, 99),
        "api": api,
        "src_endpoint": _present({"hostname": _near(one)}),
        "dst_endpoint": _present({"hostname": _far(one), "svc_name": one.get("service")}),
        **_actor(one, "actor"),
    }
    if "latency" in one:
        made["duration"] = one["latency"] // 1000
    return made


def _access(kind: str, one: Line) -> Event:
    """What is taken away, or given back; who it is taken from is the target."""
    activity = {"applied": 2, "lifted": 1}.get(str(one.get("what")), 99)
    return {
        "class_uid": 3005,
        "activity_id": activity,
        "severity_id": _MEDIUM,
        "privileges": [f"{kind} {one.get('target', '')}".strip()],
        "user": {"name": str(one.get("target") or one.get("by") or "unknown")},
        "actor": {"user": {"name": str(one.get("by", "unknown"))}},
    }


def _actor(one: Line, key: str) -> Event:
    """The agent, in whose name everything of its sessions happens, and the user whom it runs for."""
    user = _present({"name": one.get("agent"), "type": "Other" if one.get("agent") else None, "type_id": 99})
    user = user if one.get("agent") else {"name": "unknown", "type_id": 0}
    session = _present({"uid": one.get("session"), "issuer": one.get("on_behalf_of")})
    if key == "user":
        return {"user": user, **({"session": session} if session else {})}
    return {"actor": {"user": user, **({"session": session} if session else {})}}


def _outcome(one: Line, *, refused: bool) -> Event:
    verdict = one.get("verdict")
    if verdict is None and not refused:
        return {"status_id": 1, "status": "Success"}
    made: Event = {"status_id": 2 if refused else 1, "status": "Failure" if refused else "Success"}
    if verdict is not None:
        made |= {"action_id": 2 if refused else 1, "action": "Denied" if refused else "Allowed"}
        rule = one.get("rule")
        decision = {"decision": str(verdict), **({"policy": {"name": str(rule)}} if rule else {})}
        made["authorizations"] = [decision]
    if one.get("reason"):
        made["status_code"] = str(one["reason"])
    if one.get("hint"):
        made["status_detail"] = str(one["hint"])
    return made


def _metadata(one: Line) -> Event:
    trace = str(one.get("trace", "")).split("-")
    return _present(
        {
            "version": OCSF,
            "product": {"name": "Lockgate", "vendor_name": "Lockgate", "version": VERSION},
            "profiles": ["security_control"],
            "uid": one.get("chain"),
            "sequence": one.get("seq"),
            "logged_time": one.get("at", 0) // 1000,
            "log_provider": one.get("node"),
            "event_code": one.get("kind"),
            "correlation_uid": trace[1] if len(trace) == 4 else None,
            "log_version": str(one.get("schema", "")),
        }
    )


def _message(kind: str, one: Line) -> str:
    words = [kind, one.get("agent"), one.get("service"), one.get("what"), one.get("reason"), one.get("rule")]
    return " ".join(str(word) for word in words if word)


def _near(one: Line) -> Any:
    """The agent's node, as far as this one knows it."""
    return one.get("peer") if one.get("role") == "tool" else one.get("node")


def _far(one: Line) -> Any:
    return one.get("node") if one.get("role") in ("tool", "both") else one.get("peer")


def _present(made: Event) -> Event:
    return {key: value for key, value in made.items() if value not in (None, "", {}, [])}
