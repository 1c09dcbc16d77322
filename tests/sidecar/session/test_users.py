import os

import pytest
import trio
from trio.testing import MockClock

from sidecar.policy.load import load_policy
from sidecar.policy.model import Policy
from sidecar.session import users
from sidecar.session.users import Users
from tests.sidecar.working import POLICY


def policy(text: str = POLICY) -> Policy:
    return load_policy(text.encode(), "policy")


@pytest.mark.parametrize(
    ("agent", "uid"), [("researcher", 1001), ("clerk", 65534), ("ghost", None), ("nobody-knows", None)]
)
async def test_an_agents_uid_is_the_policys(agent: str, uid: int | None) -> None:
    """By number, by a user of this machine, or not at all."""
    known = Users("agents-1", policy)
    await known.learn()
    assert known.uid_of(agent) == uid
    assert Users("agents-1", lambda: None).uid_of(agent) is None


async def test_an_agent_has_a_user_of_its_own() -> None:
    """A policy names users; only the node knows that one is root by another name, the daemon's, or another's."""
    text = POLICY.replace('uid = "lockgate-no-such-user"', "uid = 65534")
    known = Users("agents-1", lambda: policy(text))
    await known.learn()
    assert "root's" in known.fault("researcher", 0)
    assert "the daemon's" in known.fault("researcher", os.geteuid())
    assert "agent clerk's too" in known.fault("ghost", 65534)
    assert known.fault("researcher", 1001) == ""
    assert Users("elsewhere", lambda: policy(text)).fault("ghost", 65534) == ""
    assert Users("agents-1", lambda: None).fault("ghost", 65534) == ""


async def test_a_user_that_the_machine_lacks_is_told() -> None:
    """Once it was looked for: before that nothing is known."""
    known = Users("agents-1", policy)
    assert known.missing() == []
    await known.learn()
    assert known.missing() == ["ghost"]
    assert Users("elsewhere", policy).missing() == []


async def test_a_stream_never_waits_for_the_user_data_base(
    autojump_clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked in a thread, and again every while; until the next answer the last one holds."""
    asked: list[set[str]] = []
    answer: dict[str, int | None] = {"nobody": 7}

    async def look_up(_: Users, names: set[str]) -> dict[str, int | None]:
        await trio.sleep(0.1)
        asked.append(names)
        return {name: answer.get(name) for name in names}

    monkeypatch.setattr(Users, "_looked_up", look_up)
    known = Users("agents-1", policy)
    nursery.start_soon(known.run)
    assert known.uid_of("clerk") is None
    await trio.sleep(users.LOOK_SECONDS * 1.5)
    assert (known.uid_of("clerk"), len(asked)) == (7, 1)
    answer["nobody"] = 8
    await trio.sleep(users.TTL_SECONDS / 2)
    assert (known.uid_of("clerk"), len(asked)) == (7, 1)
    await trio.sleep(users.TTL_SECONDS)
    assert (known.uid_of("clerk"), len(asked)) == (8, 2)
    nursery.cancel_scope.cancel()
