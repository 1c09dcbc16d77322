"""The fixed far end of a service, and how to close a local socket so that its peer sees a cut."""

import socket
import struct
from contextlib import suppress

import trio

from pki.errors import LockgateError, UnreachableError
from pki.tls.stream import TlsStream
from sidecar.policy.model import Service
from sidecar.proxy.arrival import EndedError
from sidecar.proxy.dial import dial
from sidecar.reasons import Reason

TARGET_SECONDS = 5.0


async def dial_target(service: Service | None) -> trio.abc.HalfCloseableStream:
    """A connection to the one target that the policy names for ``service``; raises EndedError."""
    if service is None:
        raise EndedError(Reason.NO_GRANT, hint="the service left the policy")
    try:
        with trio.fail_after(TARGET_SECONDS):
            return await dial(service.target)
    except (UnreachableError, trio.TooSlowError):
        hint = f"service {service.name}: its target {service.target} does not answer"
    except LockgateError as error:
        hint = f"service {service.name}: {error}"
    raise EndedError(Reason.TARGET_UNREACHABLE, hint=hint)


async def close_hard(stream: trio.abc.AsyncResource) -> None:
    """Close with RST (SO_LINGER 0): queued bytes are dropped, and the peer cannot take it for a clean end."""
    wire = stream.transport if isinstance(stream, TlsStream) else stream
    if isinstance(wire, trio.SocketStream):
        with suppress(OSError):  # Already gone.
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)
