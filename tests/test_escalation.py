"""An escalation through a mesh: asked for by an agent's session, answered by operators, used through MCP, and ended."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from sidecar.control.client import call as call_socket
from tests.clients import connect
from tests.mesh import Done, Mesh, dev_mesh, until
from tests.sidecar.mcp.official import MODES, client

ASK = ("--to", "action", "--service", "tickets", "--reason", "ticket 7")
SOLO = """
[[escalations]]
id = "by-hours"
agents = ["researcher"]
from = "retrieval"
to = "high-risk"
services = ["vault"]
max-ttl = "5m"
approvals = 0
when = { max-per-day = 1, require-reason = true }

[[escalations]]
id = "by-two"
agents = ["researcher"]
from = "action"
to = "retrieval"
services = ["wiki"]
max-ttl = "5m"
approvals = 2
approvers = ["operator:alice", "operator:bob"]
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A dev mesh, whose session has seen what tools there are, and two escalations more."""
    with dev_mesh(tmp_path_factory.mktemp("escalation") / "D") as mesh:
        policy = mesh.root / "escalations.toml"
        policy.write_text((mesh.root / "policy.toml").read_text() + SOLO)
        applied = mesh.cli("policy", "apply", str(policy), "--yes", "--wait", "20s", operator="alice")
        assert applied.code == 0, applied.err
        lists(mesh)
        yield mesh


def lists(mesh: Mesh) -> list[str]:
    """The tools that the session is shown."""

    async def ask() -> list[str]:
        async with client(mesh.env["MCP"], MODES[0]) as agent:
            return [tool.name for tool in (await agent.list_tools()).tools]

    return trio.run(ask)


def deletes(mesh: Mesh) -> str:
    """What comes of the call that no grant allows."""

    async def ask() -> str:
        async with client(mesh.env["MCP"], MODES[0]) as agent:
            result = await agent.call_tool("delete_tickets", {})
            return " ".join(getattr(one, "text", "") for one in result.content)

    return trio.run(ask)


def says(mesh: Mesh, word: str) -> bool:
    """Whether the answer comes to hold ``word``: what was said on one node is in force on another a moment later."""
    return until(lambda: word in deletes(mesh), f"{word} in the answer")


def asks(mesh: Mesh, *words: str) -> Done:
    return mesh.cli("request", "create", *(words or ASK), "--json")


def shown(mesh: Mesh, name: str, member: str = "tools-1") -> dict[str, Any]:
    return mesh.cli("request", "show", name, "--json", member=member).json


def answers(mesh: Mesh, verb: str, name: str, operator: str, *words: str, member: str = "tools-1") -> Done:
    until(lambda: mesh.cli("request", "show", name, member=member).code == 0, f"{name} at {member}")
    return mesh.cli("request", verb, name, *words, "--json", member=member, operator=operator)


def stands(mesh: Mesh, name: str, state: str) -> dict[str, Any]:
    return until(lambda: (one := shown(mesh, name))["state"] == state and one, f"{name} to be {state}")


def test_what_is_asked_for_is_approved_used_and_ended(mesh: Mesh) -> None:
    """The refusal says what to ask for, then whom to poll; another operator agrees on another node; its end is at once."""
    assert "escalation ticket-writes can be requested" in deletes(mesh)
    made = asks(mesh)
    assert made.code == 0, made.err
    name = made.json["id"]
    assert (made.json["state"], made.json["needed"]) == ("requested", 1)
    assert says(mesh, name), "the refusal names what to poll"
    assert "delete_tickets" not in lists(mesh)
    told = answers(mesh, "approve", name, "bob", "--yes")
    assert told.code == 0, told.err
    for words in ("reason: ticket 7", "customer-money", "so far:", "REFUSED no_grant"):
        assert words in told.err
    stands(mesh, name, "granted")
    assert until(lambda: "delete_tickets" in lists(mesh), "the tool to be shown")
    assert deletes(mesh) == "deleted"
    used = mesh.records("tools-1", kind="request", rule=name)
    assert [one["operation"]["name"] for one in used] == ["delete_tickets"]
    again = answers(mesh, "approve", name, "bob", "--yes")
    assert (again.code, "approved it already" in again.out) == (1, True)
    assert answers(mesh, "deny", name, "alice", "--yes", "--message", "done").code == 0
    assert "done" in stands(mesh, name, "refused")["why"]
    assert says(mesh, "lease_ended")
    story = [one["what"] for one in mesh.records("ca", kind="escalation", request=name)]
    assert story == ["requested", "approved", "granted", "refused"]


def test_what_is_live_on_a_lease_is_cut_with_it(mesh: Mesh) -> None:
    """Where conditions alone decide the CA does, within moments; once a day is once."""
    made = asks(mesh, "--to", "high-risk", "--service", "vault", "--ttl", "1m", "--reason", "look")
    name = made.json["id"]
    stands(mesh, name, "granted")
    policy = (mesh.root / "escalations.toml").read_text()
    ports = policy[policy.index('service = "vault"') :]
    vault = int(ports.partition("listen = ")[2].partition("\n")[0])
    with connect(vault) as stream:
        stream.sendall(b"GET / HTTP/1.1\r\nHost: vault\r\n\r\n")
        assert stream.recv(4) == b"HTTP"
        assert answers(mesh, "deny", name, "bob", "--yes").code == 0
        cut = until(lambda: mesh.records("tools-1", kind="cut", service="vault"), "the stream to be cut")[-1]
        assert (cut["reason"], cut["rule"]) == ("lease_ended", name)
    made = asks(mesh, "--to", "high-risk", "--service", "vault", "--ttl", "1m", "--reason", "again")
    second = made.json["id"]
    assert "granted 1 times today" in stands(mesh, second, "refused")["why"]


def test_an_approval_works_while_the_ca_is_away(mesh: Mesh) -> None:
    """Each node derives the lease by itself; of two operators each counts once, and only those the rule names."""
    made = asks(mesh, "--to", "retrieval", "--service", "wiki", "--ttl", "1m").json["id"]
    with mesh.paused("ca"):
        assert answers(mesh, "approve", made, "bob", "--yes").code == 0
        assert shown(mesh, made)["state"] == "approved"
        assert answers(mesh, "approve", made, "alice", "--yes", member="agents-1").code == 0
        assert stands(mesh, made, "granted")["approvals"] == ["alice", "bob"]
    until(lambda: mesh.records("ca", kind="escalation", request=made, what="granted"), "the CA's word on it")
    assert answers(mesh, "deny", made, "bob", "--yes").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "action", "--service", "vault"), "no escalation offers vault in action"),
        (("--to", "action", "--service", "tickets"), "wants a reason"),
        (("--to", "action", "--service", "tickets", "--reason", "x", "--ttl", "1h"), "lasts for 15m at most"),
        (("--to", "action", "--service", "tickets", "--operation", "none"), "is no 'METHOD NAME'"),
    ],
)
def test_what_no_rule_offers_is_not_asked_for(mesh: Mesh, words: tuple[str, ...], said: str) -> None:
    """With the reason, before any operator is bothered."""
    refused = asks(mesh, *words)
    assert (refused.code, said in refused.out) == (1, True), refused


def test_a_session_has_few_requests_waiting(mesh: Mesh) -> None:
    """And a child of it asks for nothing; unknown ids are said to be so."""
    names = [asks(mesh).json["id"] for _ in range(8)]
    assert "8 of this session wait already" in asks(mesh).out
    for name in names:
        assert answers(mesh, "deny", name, "bob", "--yes").code == 0
    assert mesh.cli("request", "show", "a" * 26).code == 1
    sock = str(mesh.member("agents-1") / "run" / "agent.sock")
    script = f"import os; os.execvp('curl', ['curl','-s','--unix-socket','{sock}','http://x/v1/requests'])"
    child = mesh.cli(
        "session", "exec", "--agent", "researcher", "--", "python3", "-c", script, member="agents-1"
    )
    assert "requests" in child.out
    assert os.path.exists(sock)
    assert json.loads(child.out)["requests"] == []
    assert call_socket(mesh.member("tools-1") / "run" / "admin.sock", "GET", "/v1/requests")["requests"]


def test_decisions_on_leases_can_be_made_again(mesh: Mesh) -> None:
    """From the records and bodies of each node alone: what was granted, pending and ended is part of the snapshot."""
    for node in ("agents-1", "tools-1"):
        found = mesh.cli("audit", "verify", "--redecide", "--json", member=node)
        assert found.code == 0, found.out
        assert found.json["decisions"] > 0
        assert (found.json["disagreements"], found.json["not_comparable"]) == (0, 0)
