"""`lockgate audit trace`: the tree of what a session did, with decisions and latencies."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pki.clock import Wall
from pki.errors import LocalError
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.since import SINCE
from sidecar.cli.values import clock_time, printable
from sidecar.exits import Exit

if TYPE_CHECKING:
    from sidecar.audit.trace import RequestPart, SessionPart, StreamPart, Trace

TRACE_ID_CHARS = 32


@click.command()
@click.argument("what", metavar="SESSION|TRACE|AGENT")
@click.argument("folders", nargs=-1, metavar="[FOLDER]...", type=click.Path(path_type=Path))
@click.option(
    "--since",
    type=SINCE,
    default="0",
    metavar="AGO|TIME",
    help="Sessions alive since: 2h, 2026-12-01T09:00:00Z.",
)
@settings_options
def trace(settings: Settings, what: str, folders: tuple[Path, ...], since: Wall) -> int:
    """The tree of what a session did: streams and requests, with what was decided and how long each took.

    SESSION is a session's id, TRACE a trace id or a whole traceparent, AGENT a name: all its sessions. Read are this node's log, or the FOLDERs:
    copies of several nodes' logs, joined by the ids of their streams. Exit code 1: nothing is about it.
    """
    from sidecar.audit.examine import log_folder
    from sidecar.audit.search import story
    from sidecar.audit.trace import trace_of

    word = _word(what)
    places = [log_folder(one) for one in folders] or [settings.paths.audit_dir]
    found = trace_of(story(places, word, since=since))
    body = asdict(found)
    settings.emit({**body, "actions": found.actions}, "\n".join(map(printable, lines_of(found))))
    if not found.sessions:
        settings.say(f"{what}: no record is about it; another node's log may be (give its folder)")
    return Exit.YES if found.sessions else Exit.NO


def lines_of(trace: "Trace") -> Iterator[str]:
    """The tree, a line a node of it."""
    for one in trace.sessions:
        yield from _session(one, "", "")
    for statement in trace.statements:
        by = f" by {statement['by']}" if statement.get("by") else ""
        what, target = statement.get("what", ""), statement.get("target", "")
        yield f"{statement['kind']} {statement.get('statement', '')} of {target}: {what}{by}, {_at(statement['at'])}"


def _word(what: str) -> str:
    parts = what.split("-")
    word = parts[1] if len(parts) == 4 and _is_trace(parts[1]) else what
    from pki.ids import is_id
    from pki.spiffe import is_name

    if not (_is_trace(word) or is_id(word) or is_name(word)):
        raise LocalError(
            f"{what!a}: no session's id (26 characters), no trace's (32 hex digits), no agent's name"
        )
    return word


def _is_trace(word: str) -> bool:
    return len(word) == TRACE_ID_CHARS and set(word) <= set("0123456789abcdef")


def _session(one: "SessionPart", first: str, rest: str) -> Iterator[str]:
    kind = "child" if one.parent else "session"
    whom = f"  on behalf of {one.on_behalf_of}" if one.on_behalf_of else ""
    began = f"  started {_at(one.started)}" if one.started else ""
    yield f"{first}{kind} {one.session}  {one.agent} on {one.node}  trace {one.trace}{whom}{began}"
    branches = [
        *(partial(_stream, each) for each in one.streams),
        *(partial(_session, each) for each in one.children),
    ]
    if one.ended is not None:
        branches.append(partial(_leaf, f"ended {_at(one.ended)}: {one.why}"))
    for index, branch in enumerate(branches):
        last = index == len(branches) - 1
        yield from branch(*((f"{rest}└─ ", f"{rest}   ") if last else (f"{rest}├─ ", f"{rest}│  ")))


def _leaf(words: str, first: str, rest: str) -> Iterator[str]:  # noqa: ARG001 - as the other branches
    yield first + words


def _stream(one: "StreamPart", first: str, rest: str) -> Iterator[str]:
    where = f"{one.service} ({one.segment})" if one.segment else one.service
    facts = [f"{where}  {_verdict(one)}", *_stream_facts(one), f"on {', '.join(one.nodes)}"]
    yield f"{first}{_at(one.at)}  " + "  ".join(facts)
    for index, each in enumerate(one.requests):
        yield f"{rest}{'└─' if index == len(one.requests) - 1 else '├─'} {_request(each)}"


def _stream_facts(one: "StreamPart") -> Iterator[str]:
    if one.open_latency is not None:
        yield f"open in {_duration(one.open_latency)}"
    if one.ended in ("closed", "cut"):
        yield f"{one.bytes_in} B in, {one.bytes_out} B out"
        lasted = f" after {_duration(one.duration)}" if one.duration is not None else ""
        by = f" by {one.ended_by}" if one.ended_by else ""
        yield f"{one.ended}{lasted}" + (f": {one.ended_for}{by}" if one.ended_for else "")
    elif not one.ended and one.verdict != "deny":
        yield "live"


def _request(one: "RequestPart") -> str:
    parts = [one.operation or "(no request)", _verdict(one)]
    if one.status is not None:
        parts.append(f"answered {one.status}" if one.status else "no answer")
    if one.latency is not None:
        parts.append(f"in {_duration(one.latency)}")
    return "  ".join(parts)


def _verdict(one: "StreamPart | RequestPart") -> str:
    by = f" by {one.rule}" if one.rule else ""
    times = f" x{one.count}" if one.count > 1 else ""
    if one.verdict == "deny":
        hint = f" ({one.hint})" if one.hint else ""
        return f"REFUSED {one.reason}{by}{times}{hint}"
    if one.verdict == "would_deny":
        return f"allowed only while observed, would be refused{by}"
    return f"allowed{by}" if one.verdict else "not decided on these logs"


def _at(at: Wall | int | None) -> str:
    whole: Any = clock_time(at)
    return str(whole).removesuffix(" UTC")


def _duration(microseconds: int) -> str:
    if microseconds < 1_000:
        return f"{microseconds} us"
    if microseconds < 1_000_000:
        return f"{microseconds / 1_000:.1f} ms"
    return f"{microseconds / 1_000_000:.1f} s"
