"""The fixed far end of a service, and how to close a local socket so that its peer sees a cut."""

import socket
import struct

import trio

from pki.errors import UnreachableError
from sidecar.net import dial_tcp
from sidecar.policy.model import Service
from sidecar.proxy.carry import Ended
from sidecar.reasons import Reason

TARGET_SECONDS = 5.0


async def dial_target(service: Service | None) -> trio.abc.HalfCloseableStream:
    """A connection to the one target that the policy names for ``service``; raises Ended."""
    if service is None:
        raise Ended(Reason.NO_GRANT, hint="the service left the policy")
    try:
        with trio.fail_after(TARGET_SECONDS):
            return await dial_tcp(service.target)
    except (UnreachableError, trio.TooSlowError):
        hint = f"service {service.name}: its target {service.target} does not answer"
        raise Ended(Reason.TARGET_UNREACHABLE, hint=hint) from None


async def close_hard(stream: trio.abc.AsyncResource) -> None:
    """Close with RST (SO_LINGER 0): queued bytes are dropped, and the peer cannot take it for a clean end."""
    if isinstance(stream, trio.SocketStream):
        try:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # Already gone.
    await trio.aclose_forcefully(stream)
