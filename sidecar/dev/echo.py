"""A TCP echo tool: sends back what it gets, ends when its client ends. ``python -m sidecar.dev.echo PORT``."""

import signal
import sys

import trio

from sidecar.lifecycle import use_all_descriptors

CHUNK_BYTES = 65_536


async def _echo(stream: trio.SocketStream) -> None:
    try:
        async with stream:
            async for chunk in stream:
                await stream.send_all(chunk)
            await stream.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # The client was cut off.


async def serve(port: int) -> None:
    """Serve 127.0.0.1 until cancelled."""
    await trio.serve_tcp(_echo, port, host="127.0.0.1")


def main() -> None:
    """Serve until ended; Ctrl-C ends it without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    use_all_descriptors()
    trio.run(serve, int(sys.argv[1]))


if __name__ == "__main__":
    main()
