"""The node's daemon, from its files to its end: load, compose, serve, drain."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from pki.clock import SystemClock
from pki.errors import ConfigError, LocalError
from sidecar import defaults, lifecycle, log, systemd
from sidecar.audit import record
from sidecar.audit.closed import ClosedVolumes, Keep
from sidecar.audit.volume import Site
from sidecar.audit.writer import AuditWriter
from sidecar.catch_up import CatchUp
from sidecar.config import NodeConfig, load_node_config
from sidecar.control.admin import admin_app
from sidecar.control.agent import agent_app
from sidecar.control.unix import serve_unix
from sidecar.disk import RealDisk
from sidecar.gossip.journal import Journal
from sidecar.identity import BUNDLE_FILE, Credential, NextKey, load_bundle, save_bundle
from sidecar.mcp.pinfile import PinFile
from sidecar.net import listen_unix
from sidecar.node import Node, Seams
from sidecar.objects import Objects
from sidecar.paths import Paths
from sidecar.proxy.callers import Callers
from sidecar.proxy.sockdiag import SockDiag
from sidecar.reasons import Reason
from sidecar.renewal import Renewals
from sidecar.rollover import Acknowledger
from sidecar.session.cgroup import SessionCgroups
from sidecar.telemetry.export import Telemetry, otlp_sender
from sidecar.version import VERSION

ADMIN_MODE = 0o660
AGENT_MODE = 0o666
STOP_SECONDS = 3.0
MAX_WHY_CHARS = 2_000

_STREAM_LIMITS = {f"limits.{name}" for name in ("streams", "half-close-idle", "idle", "lifetime")}
LIVE = frozenset({"ca", "ca-control", "log-level", "operator"} | _STREAM_LIMITS)
"""Keys of node.toml that count without a restart."""

_log = structlog.get_logger(__name__)


def read_config(paths: Paths) -> NodeConfig:
    """node.toml; raises LocalError when there is none, ConfigError when it is wrong."""
    try:
        data = paths.node_toml.read_bytes()
    except OSError as error:
        raise LocalError(f"{paths.node_toml}: {error.strerror}; run: lockgate join") from None
    return load_node_config(data, str(paths.node_toml))


def compose(paths: Paths, config: NodeConfig) -> Node:
    """The node of ``paths``; raises LocalError for what is missing or damaged."""
    lifecycle.make_folders(paths)
    clock = SystemClock()
    cgroups = _session_cgroups()
    kept = config.audit
    site = Site(RealDisk(), paths.audit_dir, config.name, kept.volume_bytes, kept.reserve_bytes)
    seams = Seams(
        clock=clock,
        kernel=Callers(SockDiag(), cgroups.mount if cgroups else None),
        audit=AuditWriter(site, clock),
        journal=Journal(paths.statements),
        objects=Objects(paths.objects),
        keep_bundle=partial(save_bundle, folder=paths.identity_dir),
        cgroups=cgroups,
        pins=PinFile(RealDisk(), paths.pins),
    )
    node = Node(config, Credential.load(paths.identity_dir), load_bundle(paths.identity_dir), seams)
    seams.audit.objects = seams.objects
    node.bundle_statement = (paths.identity_dir / BUNDLE_FILE).read_bytes()
    return node


def _session_cgroups() -> SessionCgroups | None:
    try:
        return SessionCgroups.of_machine()
    except LocalError as error:
        _log.warning("sessions are known by their uid alone", why=str(error))
        return None


async def run(paths: Paths) -> None:
    """Serve until told to stop; raises LocalError or ConfigError when it cannot start."""
    config = read_config(paths)
    log.configure(config.log_level)
    lifecycle.use_all_descriptors()
    if (room := lifecycle.room_for_streams()) < config.limits.streams:
        _log.warning("fewer streams than configured: too few descriptors", streams=room)
    node = compose(paths, config)
    overlay = await lifecycle.listen_all(config.listen, "overlay port")
    admin = listen_unix(paths.admin_sock, ADMIN_MODE)
    agent = listen_unix(paths.agent_sock, AGENT_MODE)
    workload = listen_unix(paths.workload_sock, AGENT_MODE) if config.workload_api else None
    audit = node.seams.audit
    async with trio.open_nursery() as nursery:
        await nursery.start(audit.run)
        audit.append(record.start(node.seams.clock.wall(), VERSION))
        try:
            await _serve(paths, node, Listeners(overlay, admin, agent, workload))
        finally:
            # After all that writes to it, however that ended.
            await _close_log(node)
    lifecycle.remove_sockets(paths.admin_sock, paths.agent_sock, paths.workload_sock)


@dataclass(frozen=True, slots=True)
class Listeners:
    """What was opened before anything was served."""

    overlay: list[trio.SocketListener]
    admin: trio.SocketListener
    agent: trio.SocketListener
    workload: trio.SocketListener | None = None


async def _serve(paths: Paths, node: Node, listeners: Listeners) -> None:
    reread = partial(reload, paths, node)
    async with trio.open_nursery() as nursery:
        await nursery.start(node.bindings.run)
        node.life.sweep()
        # Locks and revocations are in force before the first connection is taken.
        await node.member.restore(lifecycle.boot_id())
        nursery.start_soon(serve_unix, listeners.admin, admin_app(node, reread))
        nursery.start_soon(serve_unix, listeners.agent, agent_app(node))
        if node.config.otel is not None:
            node.telemetry = Telemetry(node.name, otlp_sender(node.config.otel.endpoint, node.name))
            nursery.start_soon(node.telemetry.run)
        if listeners.workload is not None:
            nursery.start_soon(_workload_api(), listeners.workload, node)
        nursery.start_soon(node.peering.run, listeners.overlay, node.contacts, lifecycle.boot_id())
        kept = Keep(node.config.audit.keep, node.config.audit.keep_bytes)
        closed = ClosedVolumes(node.seams.audit, kept, node.seams.clock, lambda: node.member.floor)
        renewals = Renewals(node.certificates, node.life, NextKey(paths.identity_dir), node.seams.clock)
        for part in (
            node.outbox,
            node.aftermath,
            node.users,
            node.life,
            node.carrier.servers,
            renewals,
            closed,
            node.head_teller,
        ):
            nursery.start_soon(part.run)
        nursery.start_soon(CatchUp(node.member, lambda: node.certificates.ca, node.is_fresh).run)
        nursery.start_soon(
            Acknowledger(node.certificates, lambda: node.member.bundle, node.outbox.put, node.seams.clock).run
        )
        for loop in (node.watch_streams, node.warmth.run):
            nursery.start_soon(loop)
        _log.info("serving", node=node.name, listen=[str(one) for one in node.config.listen])
        lifecycle.set_heap_aside()
        systemd.notify("READY=1")
        await lifecycle.until_stopped(lifecycle.Signals(lifecycle.quietly(reread), lambda: _drain(node)))
        await _cut_what_is_left(node)
        nursery.cancel_scope.cancel()


def _workload_api() -> Callable[[trio.SocketListener, Node], Awaitable[None]]:
    """Its HTTP/2 library comes with an extra, and is loaded only where it is wanted."""
    try:
        from sidecar.workload.api import serve_workload_api  # noqa: PLC0415 - see above
    except ImportError:
        raise LocalError("workload-api: needs a library; run: pip install 'lockgate[workload-api]'") from None
    return serve_workload_api


async def reload(paths: Paths, node: Node) -> list[str]:
    """Take up what node.toml says now; the keys that wait for a restart. A bad file raises, and changes nothing."""
    audit, clock = node.seams.audit, node.seams.clock
    with lifecycle.reloading() as waiting:
        try:
            config = await trio.to_thread.run_sync(read_config, paths)
        except (ConfigError, LocalError) as error:
            audit.append(record.reload(clock.wall(), "refused", {"why": _brief(error)}))
            raise
        taken, changed = lifecycle.take_up(node.config, config, LIVE)
        waiting.extend(changed)
        node.reconfigure(taken)
        log.configure(taken.log_level)
        audit.append(record.reload(clock.wall(), "applied", {"needs_restart": list(waiting)}))
        return waiting


def _brief(error: Exception) -> str:
    """For a record, which is bounded: a file may have any number of faults. The log has them all."""
    return str(error)[:MAX_WHY_CHARS].encode(errors="replace").decode()


async def _drain(node: Node) -> None:
    """Admit nothing more and let live streams finish, for a while."""
    node.draining = True
    systemd.notify("STOPPING=1")
    with trio.move_on_after(defaults.DRAIN / 1_000_000):
        while len(node.carrier.table):
            await node.carrier.turnover.park()


async def _cut_what_is_left(node: Node) -> None:
    """End the streams that no drain ended; each writes its record."""
    node.draining = True
    left = [live for live in node.carrier.table if live.cut(Reason.DRAINING)]
    with trio.move_on_after(STOP_SECONDS):
        await node.carrier.until_gone(left)


async def _close_log(node: Node) -> None:
    """Write the last record."""
    audit = node.seams.audit
    audit.append(record.stop(node.seams.clock.wall(), "told to" if node.draining else "failed"))
    with trio.move_on_after(STOP_SECONDS, shield=True):
        await audit.close()
