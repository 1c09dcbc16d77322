import trio

from sidecar.mcp.aside import HERE_BYTES, aside


async def test_only_what_is_large_is_done_beside_the_loop() -> None:
    """A hop to a thread costs more than a small message."""

    def on_the_loop() -> bool:
        return trio.lowlevel.in_trio_run()

    assert await aside(on_the_loop, HERE_BYTES)
    assert not await aside(on_the_loop, HERE_BYTES + 1)
