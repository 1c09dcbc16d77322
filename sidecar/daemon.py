"""The node's daemon, from its files to its end: load, compose, serve, drain."""

from contextlib import suppress

import structlog
import trio

from pki.clock import SystemClock
from pki.errors import ConfigError, LocalError
from sidecar import defaults, lifecycle, log, systemd
from sidecar.audit import record
from sidecar.audit.volume import Site
from sidecar.audit.writer import AuditWriter
from sidecar.config import NodeConfig, load_node_config
from sidecar.control.admin import admin_app
from sidecar.control.agent import agent_app
from sidecar.control.unix import listen_unix, serve_unix
from sidecar.disk import RealDisk
from sidecar.gossip.journal import Journal
from sidecar.identity import Credential, load_bundle
from sidecar.node import Node, Seams
from sidecar.objects import Objects
from sidecar.paths import Paths
from sidecar.proxy.sockdiag import SockDiag
from sidecar.reasons import Reason
from sidecar.session.cgroup import SessionCgroups
from sidecar.version import VERSION

ADMIN_MODE = 0o660
AGENT_MODE = 0o666
STOP_SECONDS = 3.0

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
    site = Site(disk=RealDisk(), folder=paths.audit_dir, node=config.name)
    seams = Seams(
        clock=clock,
        kernel=SockDiag(),
        audit=AuditWriter(site, clock),
        journal=Journal(paths.statements),
        objects=Objects(paths.objects),
        cgroups=SessionCgroups.of_machine(),
    )
    return Node(config, Credential.load(paths.identity_dir), load_bundle(paths.identity_dir), seams)


async def run(paths: Paths) -> None:
    """Serve until told to stop; raises LocalError or ConfigError when it cannot start."""
    config = read_config(paths)
    log.configure(config.log_level)
    node = compose(paths, config)
    overlay = await lifecycle.listen_all(config.listen, "overlay port")
    admin = listen_unix(paths.admin_sock, ADMIN_MODE)
    agent = listen_unix(paths.agent_sock, AGENT_MODE)
    audit = node.seams.audit
    async with trio.open_nursery() as nursery:
        await nursery.start(audit.run)
        audit.append(record.start(node.seams.clock.wall(), VERSION))
        await nursery.start(node.bindings.run)
        # Locks and revocations are in force before the first connection is taken.
        await node.member.restore(lifecycle.boot_id())
        nursery.start_soon(serve_unix, admin, admin_app(node))
        nursery.start_soon(serve_unix, agent, agent_app(node))
        nursery.start_soon(node.peering.run, overlay, node.contacts, lifecycle.boot_id())
        for loop in (node.publish_own, node.watch_streams, node.keep_warm):
            nursery.start_soon(loop)
        _log.info("serving", node=config.name, listen=[str(one) for one in config.listen])
        systemd.notify("READY=1")
        await lifecycle.until_stopped(lifecycle.Signals(lambda: _reload(paths, node), lambda: _drain(node)))
        await _stop(node)
        nursery.cancel_scope.cancel()
    lifecycle.remove_sockets(paths.admin_sock, paths.agent_sock)


async def _reload(paths: Paths, node: Node) -> None:
    """Take up what node.toml says now; a bad file changes nothing."""
    systemd.notify("RELOADING=1")
    audit, now = node.seams.audit, node.seams.clock.wall()
    try:
        config = read_config(paths)
    except (ConfigError, LocalError) as error:
        _log.error("reload refused, the old configuration stays", why=str(error))
        audit.append(record.reload(now, "refused"))
    else:
        fixed = replace_fixed(node.config, config)
        node.reconfigure(fixed)
        log.configure(fixed.log_level)
        _log.info("reloaded", needs_restart=[] if fixed == config else ["identity or addresses"])
        audit.append(record.reload(now, "applied"))
    systemd.notify("READY=1")


def replace_fixed(old: NodeConfig, new: NodeConfig) -> NodeConfig:
    """``new`` with the old values of what only a restart can change."""
    keep = {name: getattr(old, name) for name in ("name", "trust_domain", "listen", "dev", "advertise")}
    return new.model_copy(update=keep)


async def _drain(node: Node) -> None:
    """Admit nothing more and let live streams finish, for a while."""
    node.draining = True
    systemd.notify("STOPPING=1")
    with trio.move_on_after(defaults.DRAIN / 1_000_000):
        while len(node.carrier.table):
            await node.carrier.turnover.park()


async def _stop(node: Node) -> None:
    """Cut what is left, and write the last record."""
    node.draining = True
    left = [live for live in node.carrier.table if live.cut(Reason.DRAINING)]
    with trio.move_on_after(STOP_SECONDS):
        await node.carrier.until_gone(left)
    audit = node.seams.audit
    audit.append(record.stop(node.seams.clock.wall(), "told to"))
    with trio.move_on_after(STOP_SECONDS), suppress(LocalError):
        await audit.close()
