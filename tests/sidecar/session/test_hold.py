import json

import pytest
import trio
import trio.testing
from starlette.types import Message

from sidecar.session.hold import MAX_WAITING, HeldResponse, Hold, News


class Client:
    """The ASGI side of a client, which leaves when told, and stops reading when told."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self.left = trio.Event()
        self.let_go = 0
        self.broken = False

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise OSError("gone")
        self.said.append(message)

    def lines(self) -> list[News]:
        body = b"".join(one.get("body", b"") for one in self.said)
        return [json.loads(line) for line in body.splitlines()]

    def release(self) -> None:
        self.let_go += 1

    async def holds(self, hold: Hold) -> None:
        await HeldResponse({"session": "a"}, hold, self.release)({}, self.receive, self.send)


async def test_a_holder_is_told_all_until_the_end(nursery: trio.Nursery) -> None:
    """One JSON object a line, each when it happens."""
    client, hold = Client(), Hold()
    nursery.start_soon(client.holds, hold)
    await trio.testing.wait_all_tasks_blocked()
    assert client.lines() == [{"session": "a"}]
    assert client.said[0]["status"] == 201
    hold.tell({"key": "b"})
    hold.close()
    await trio.testing.wait_all_tasks_blocked()
    assert client.lines()[1:] == [{"key": "b"}]
    assert client.said[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert client.let_go == 1


@pytest.mark.parametrize("when", ["between", "while it is told"])
async def test_a_holder_that_is_gone_has_let_go(nursery: trio.Nursery, when: str) -> None:
    """Exactly once, however its connection broke."""
    client, hold = Client(), Hold()

    async def held() -> None:
        try:
            await client.holds(hold)
        except* OSError:
            assert client.broken

    nursery.start_soon(held)
    await trio.testing.wait_all_tasks_blocked()
    assert client.let_go == 0
    if when == "between":
        client.left.set()
    else:
        client.broken = True
        hold.tell({"key": "b"})
    await trio.testing.wait_all_tasks_blocked()
    assert client.let_go == 1


async def test_news_for_one_who_does_not_read_are_bounded() -> None:
    """It is let go of: what it missed it could not get any more."""
    hold = Hold()
    for number in range(MAX_WAITING + 5):
        hold.tell({"number": number})
    told = [await hold.told() for _ in range(MAX_WAITING)]
    assert [one["number"] for one in told if one] == list(range(MAX_WAITING))
    assert await hold.told() is None
