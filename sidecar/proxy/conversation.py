"""What the two ends of a stream say to each other, at the tool's node: bytes, or requests that are decided one by one."""

import trio

from sidecar.http.early import refuse_unread
from sidecar.http.ends import AgentEnd, ToolEnd
from sidecar.http.headers import Identity
from sidecar.http.inject import credential_of
from sidecar.http.normal import Reading
from sidecar.http.plain import PlainHttp
from sidecar.http.relay import Relay, Settings
from sidecar.http.seams import Dialect
from sidecar.mcp.dialect import McpDialect, Server
from sidecar.policy.decide import Decision
from sidecar.policy.model import Binding, Policy, Protocol, Service
from sidecar.proxy.arrival import Arrival
from sidecar.proxy.carry import Carrier
from sidecar.proxy.ends import dial_target
from sidecar.proxy.requests import StreamJudge
from sidecar.proxy.splice import Gate, splice
from sidecar.proxy.streams import Live
from sidecar.reasons import Reason


async def converse(
    carrier: Carrier, arrival: Arrival, far: trio.abc.HalfCloseableStream, gate: Gate, live: Live
) -> None:
    """Carry a stream whose target is beside this node, to its end; raises Broken."""
    policy = carrier.situation.sight().snapshot.policy
    service = policy.services.get(arrival.request.service) if policy else None
    if policy is None or service is None or service.protocol is Protocol.TCP:
        await splice(arrival.near, far, gate)
        return

    async def dial() -> trio.abc.HalfCloseableStream:
        now = carrier.situation.sight().snapshot.policy
        return await dial_target(now.services.get(arrival.request.service) if now else None)

    judge = StreamJudge(carrier, live, arrival.subject)
    relay = Relay(
        agent=AgentEnd(arrival.near, gate),
        tool=ToolEnd(far, gate),
        dial=dial,
        judge=judge,
        dialect=_dialect(service, judge),
        settings=_settings(policy, service, arrival),
        budget=carrier.held,
    )
    await relay.run()


async def refuse(carrier: Carrier, service: str, near: trio.abc.HalfCloseableStream, said: Decision) -> None:
    """Of a stream that never opened. A raw client has no place for words: it sees RST, an HTTP client reads why."""
    policy = carrier.situation.sight().snapshot.policy
    known = policy.services.get(service) if policy else None
    if known is not None and known.protocol is not Protocol.TCP:
        await refuse_unread(near, said.reason or Reason.NO_GRANT, said.rule, said.hint)


def hosts_of(bindings: tuple[Binding, ...], agent: str, service: Service) -> frozenset[str]:
    """What an agent may call the service: the addresses of its bindings, and the service's own host."""
    hosts = {service.host.lower()} if service.host else set()
    for binding in bindings:
        if (binding.agent, binding.service) != (agent, service.name):
            continue
        if binding.path:
            hosts |= {"localhost", service.name}  # No web page reaches a Unix socket.
            continue
        names = {"127.0.0.1", "localhost", "[::1]", *({service.host.lower()} if service.host else ())}
        hosts |= {f"{name}:{binding.port}" for name in names}
        if binding.port in (80, 443):
            hosts |= names
    return frozenset(hosts)


def _dialect(service: Service, judge: StreamJudge) -> Dialect:
    if service.protocol is Protocol.HTTP:
        return PlainHttp()
    servers = judge.carrier.servers
    server = Server(service.name, servers.pins, servers.owners, judge.pins, service.endpoint)
    return McpDialect(server, judge.subject.session, judge, judge.note)


def _settings(policy: Policy, service: Service, arrival: Arrival) -> Settings:
    subject = arrival.subject
    identity = Identity(subject.agent, subject.session, subject.stream, subject.on_behalf_of)
    return Settings(
        identity=identity,
        reading=Reading(hosts_of(policy.bindings, subject.agent, service), service.path_parameters),
        host=service.host.encode(),
        credential=credential_of(service.inject_header),
    )
