import os

import pytest

from sidecar.policy.load import load_policy
from sidecar.session.users import uid_fault, uid_of
from tests.sidecar.working import POLICY

LOADED = load_policy(POLICY.replace('uid = "lockgate-no-such-user"', "uid = 65534").encode(), "policy")


@pytest.mark.parametrize(
    ("agent", "uid"), [("researcher", 1001), ("clerk", 65534), ("ghost", None), ("nobody-knows", None)]
)
def test_an_agents_uid_is_the_policys(agent: str, uid: int | None) -> None:
    """By number, by a user of this machine, or not at all."""
    assert uid_of(agent, load_policy(POLICY.encode(), "policy")) == uid
    assert uid_of(agent, None) is None


def test_an_agent_has_a_user_of_its_own() -> None:
    """A policy names users; only the node knows that one is root by another name, the daemon's, or another's."""
    assert "root's" in uid_fault("researcher", 0, LOADED, "agents-1")
    assert "the daemon's" in uid_fault("researcher", os.geteuid(), LOADED, "agents-1")
    assert "agent clerk's too" in uid_fault("ghost", 65534, LOADED, "agents-1")
    assert uid_fault("researcher", 1001, LOADED, "agents-1") == ""
    assert uid_fault("ghost", 65534, LOADED, "elsewhere") == ""
