"""The CA's daemon: its API for enrolment and operators (7444), and its place in the mesh (7446)."""

import secrets
from collections.abc import Callable, Iterable
from functools import partial

import structlog
import trio
from OpenSSL import SSL

from pki.authority.ages import overdue
from pki.authority.enrol import Enrolment
from pki.authority.issuer import Issuer, Lifetimes
from pki.authority.keystore import REGISTER_FILE, Authority, open_online
from pki.authority.refusal import Refusal
from pki.authority.register import Register
from pki.authority.service import Hooks, application, serve
from pki.authority.signer import StatementSigner
from pki.clock import DAY, SECOND, Clock, SystemClock, Wall
from pki.errors import LocalError
from pki.tls.context import ClientCertificate, make_context
from sidecar import lifecycle, log, systemd
from sidecar.audit import record
from sidecar.audit.checkpoint import Signatory
from sidecar.audit.closed import ClosedVolumes, Keep
from sidecar.audit.record import Record
from sidecar.audit.volume import Site
from sidecar.audit.writer import AuditWriter
from sidecar.ca.control import ca_app
from sidecar.ca.leases import LeaseDesk
from sidecar.ca.office import Office
from sidecar.ca.oidc import IdTokens
from sidecar.ca.places import control_addresses
from sidecar.ca.rollover import RolloverDesk
from sidecar.config import CaConfig, load_ca_config
from sidecar.control.unix import serve_unix
from sidecar.disk import RealDisk
from sidecar.gossip.editions import bundle_statement
from sidecar.gossip.journal import Journal
from sidecar.gossip.links import Contact
from sidecar.gossip.member import Member
from sidecar.identity import Credential
from sidecar.net import dial_tcp, listen_unix
from sidecar.objects import Objects
from sidecar.overlay import Overlay, Standing
from sidecar.paths import Paths
from sidecar.peering import Caps, Peering, is_member_identity
from sidecar.version import VERSION

ADMIN_MODE = 0o660
STOP_SECONDS = 3.0

LIVE = frozenset({"log-level", "operator"})
"""Keys of ca.toml that count without a restart."""

_log = structlog.get_logger(__name__)


def read_config(paths: Paths) -> CaConfig:
    """ca.toml; raises LocalError when there is none, ConfigError when it is wrong."""
    try:
        data = paths.ca_toml.read_bytes()
    except OSError as error:
        raise LocalError(f"{paths.ca_toml}: {error.strerror}; run: lockgate ca init") from None
    return load_ca_config(data, str(paths.ca_toml))


async def run(paths: Paths) -> None:
    """Serve until told to stop; raises LocalError or ConfigError when it cannot start."""
    config = read_config(paths)
    log.configure(config.log_level)
    lifecycle.use_all_descriptors()
    lifecycle.make_folders(paths)
    clock = SystemClock()
    authority = open_online(paths.authority_dir)
    register = Register.open(paths.authority_dir / REGISTER_FILE)
    issuer = Issuer(authority, register, secrets.token_bytes, _lifetimes(config))
    signer = StatementSigner(authority, register)
    office = compose(paths, config, signer, clock)
    api = await lifecycle.listen_all(config.listen, "CA port")
    control = await lifecycle.listen_all(config.control_listen, "CA control port")
    admin = listen_unix(paths.admin_sock, ADMIN_MODE)
    await office.member.restore(lifecycle.boot_id())
    reread = partial(reload, paths, config)
    audit = AuditWriter(_site(paths, config), clock)
    kept = Keep(config.audit.keep, config.audit.keep_bytes)
    closed = ClosedVolumes(audit, kept, clock, lambda: office.member.floor)
    office.record = audit.append
    rollover = RolloverDesk(office, signer, paths.authority_dir, secrets.token_bytes)
    office.volume = lambda: audit.head.volume if audit.head else ""
    audit.signatory = lambda: _signatory(authority, office)
    async with trio.open_nursery() as nursery:
        await nursery.start(audit.run)
        audit.append(record.start(clock.wall(), VERSION, {"role": "ca"}))
        await rollover.take_up()
        nursery.start_soon(LeaseDesk(office, signer).run)
        context = ApiContext(authority)
        app = application(issuer, hooks_of(config, office, clock))
        nursery.start_soon(serve, api, app, context.now, lambda: office.member.bundle, clock)
        nursery.start_soon(serve_unix, admin, ca_app(config, office, Enrolment(issuer), reread, rollover))
        nursery.start_soon(office.peering.run, control, _no_contacts, lifecycle.boot_id())
        nursery.start_soon(office.adopt_all)
        nursery.start_soon(office.beat)
        nursery.start_soon(closed.run)
        nursery.start_soon(_watch_keys, paths, clock)
        nursery.start_soon(rollover.run)
        _log.info("serving", ca=config.name, listen=[str(one) for one in config.listen])
        systemd.notify("READY=1")
        await lifecycle.until_stopped(lifecycle.Signals(lifecycle.quietly(reread), _no_drain))
        audit.append(record.stop(clock.wall(), "told to"))
        with trio.move_on_after(STOP_SECONDS, shield=True):
            await audit.close()
        nursery.cancel_scope.cancel()
    for listener in control:
        await listener.aclose()
    lifecycle.remove_sockets(paths.admin_sock)


def compose(paths: Paths, config: CaConfig, signer: StatementSigner, clock: Clock) -> Office:
    """The CA as a member of its mesh; raises LocalError for what is missing or damaged."""
    authority, objects = signer.authority, Objects(paths.objects)
    office = Office(signer, objects, clock, dev=config.dev)
    office.member = Member(Journal(paths.statements), objects, authority.bundle, clock, office)
    office.peering = _peering(config, authority, office.member)
    return office


async def reload(paths: Paths, running: CaConfig) -> list[str]:
    """Take up what ca.toml says now; the keys that wait for a restart. A bad file raises, and changes nothing."""
    with lifecycle.reloading() as waiting:
        config = await trio.to_thread.run_sync(read_config, paths)
        log.configure(config.log_level)
        waiting.extend(lifecycle.take_up(running, config, LIVE)[1])
        return waiting


def hooks_of(config: CaConfig, office: Office, clock: Clock) -> Hooks:
    """What the API asks of the office."""
    return Hooks(
        may_issue=office.may_issue,
        longest_session=office.longest_session,
        publish=office.publish,
        roles_of=office.roles_of,
        policies=office.policies,
        lift=office.lift,
        check_id_token=IdTokens(config.oidc, clock).check,
        control_address=str(control_addresses(config)[0]),
        clock=office.clock,
        note=_noter(office.record, office.note_clone, clock),
    )


def _signatory(authority: Authority, office: Office) -> Signatory:
    """Who signs the CA's own log: the key that it presents."""
    member = office.member
    bundle = bundle_statement(member.store, member.bundle.digest) or authority.bundle_statement.raw
    return Signatory(authority.id, (authority.tls.certificate,), authority.tls.key, bundle)


def _site(paths: Paths, config: CaConfig) -> Site:
    kept = config.audit
    return Site(RealDisk(), paths.audit_dir, config.name, kept.volume_bytes, kept.reserve_bytes)


def _lifetimes(config: CaConfig) -> Lifetimes:
    wanted = config.lifetimes
    return Lifetimes(node=wanted.node, session=wanted.session, operator=wanted.operator)


def _peering(config: CaConfig, authority: Authority, member: Member) -> Peering:
    def standing() -> Standing:
        snapshot, tls = member.snapshot, authority.tls
        return Standing(
            credential=Credential(authority.id, (tls.certificate,), tls.key),
            bundle=member.bundle,
            now=member.moment().now,
            is_member=lambda identity: is_member_identity(identity, snapshot),
        )

    overlay = Overlay(standing, dial_tcp)
    caps = Caps(config.limits.handshakes, config.limits.handshakes_per_address)
    return Peering(authority.id, overlay, member, caps, None)


class ApiContext:
    """The TLS context of the CA's API, made anew when a rollover has changed what it rests on."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._made: tuple[object, SSL.Context] | None = None

    def now(self) -> SSL.Context:
        tls, roots = self._authority.tls, self._authority.bundle.roots
        if self._made is None or self._made[0] != (tls.certificate, roots):
            context = make_context(
                anchors=roots,
                chain=(tls.certificate,),
                key=tls.key,
                server_side=True,
                client_certificate=ClientCertificate.OPTIONAL,
            )
            self._made = (tls.certificate, roots), context
        return self._made[1]


async def _watch_keys(paths: Paths, clock: Clock) -> None:
    """Say at start, and once a day, which keys want a successor: expiry is what takes a mesh down in silence."""
    while True:
        for warning in await trio.to_thread.run_sync(overdue, paths.authority_dir, clock.wall()):
            _log.warning("a key wants a successor", why=warning)
        await trio.sleep(DAY / SECOND)


async def _no_drain() -> None:
    """The CA carries no streams: nothing to wait for."""


def _no_contacts() -> Iterable[Contact]:
    """Nodes dial the CA."""
    return ()


def _noter(
    record_one: Callable[[Record], None], note_clone: Callable[[str], None], clock: Clock
) -> Callable[[dict[str, object]], None]:
    """Notes what the API does. Refusals are counted and folded: anybody can cause as many as they like.

    Who was let in, each certificate, and what was refused, is on record: in a hash chain that is signed and witnessed.
    """
    refusals = log.Refusals()

    def note(event: dict[str, object]) -> None:
        facts = dict(event)
        what = str(facts.pop("event", "event"))
        if what == "refused":
            why, reason = str(facts.pop("message", "")), facts.pop("reason", "")
            if reason == Refusal.CLONE:
                peer = str(facts["peer"])
                record_one(record.finding(clock.wall(), "clone", {"peer": peer, "why": why}))
                note_clone(peer.rpartition("/")[2])  # Only nodes renew with a key of their choice.
            count = refusals.note(f"{reason} {facts.get('peer', '')}".strip(), why, **facts)
            if count:
                told: record.Facts = {"reason": str(reason), "peer": str(facts["peer"]), "count": count}
                record_one(record.finding(clock.wall(), "refused", {**told, "why": why}))
        else:
            _log.info(what, **facts)
            name, serial = str(facts["spiffe_id"]), str(facts["serial"])
            record_one(record.renewal(clock.wall(), what, name, serial, Wall(int(str(facts["not_after"])))))

    return note
