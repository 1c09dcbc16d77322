from pathlib import Path
from typing import Any

import pytest

from sidecar.exits import Exit
from tests.sidecar.ca.world import POLICY
from tests.sidecar.cli.operators import FakeCa, credential, fake_ca, kept
from tests.sidecar.cli.world import Done, FakeDaemon, lockgate

WALL = 1_790_000_000_000_000
STATUS: dict[str, Any] = {
    "wall": WALL,
    "floor": WALL,
    "fresh_as_of": WALL - 2_000_000,
    "nodes": ["agents-1", "tools-1"],
    "labels": {},
    "locks": [],
    "revocations": [],
}
LOCK = {
    "id": "l" * 26,
    "target": "agent:researcher",
    "until": WALL + 1,
    "by": "bob",
    "message": "stop\x1b[2J",
}
HTTP = POLICY.replace('"127.0.0.1:8001"', '"127.0.0.1:8001"\nprotocol = "http"').replace(
    'services = ["wiki"]', 'services = ["wiki"]\nhttp = [{ methods = ["GET"], path = "/api/**", query = { n = { max = 9 } } }]'
)  # fmt: skip


@pytest.fixture
def node(daemon: FakeDaemon) -> FakeDaemon:
    """A node with a policy, and nothing locked."""
    daemon.says("GET /v1/policy", sequence=3, digest="ab" * 32, text=POLICY)
    daemon.says("GET /v1/status", **STATUS)
    return daemon


def offline(tmp_path: Path, text: str, *words: object) -> Done:
    """By a file, with nobody to ask."""
    file = tmp_path / "policy.toml"
    file.write_text(text)
    return lockgate("--dir", tmp_path, "policy", "explain", *words, "--policy", file)


def test_an_allowed_stream_shows_every_step_and_the_rule(node: FakeDaemon) -> None:
    """By this node's own policy, clock and locks; exit code 0."""
    done = node.run("policy", "explain", "researcher", "wiki")
    assert (done.code, done.err) == (Exit.YES, "")
    lines = done.out.splitlines()
    assert lines[0] == "agent researcher to service wiki in retrieval (read): allowed by read-wiki, line 15"
    assert lines[1] == (
        "by policy 3, from agents-1 to tools-1, at 2026-09-21 14:13:20 UTC, supposing that its certificates hold"
    )
    assert "  ok       stale             complete 2 s ago; retrieval allows 5m" in lines
    assert "  allow    granted           grant read-wiki (line 15)" in lines
    assert lines[-2].split() == ["RULE", "LINE", "WHY"]
    assert lines[-1].startswith("  grant read-wiki  15    matches, and speaks")


def test_a_refusal_says_what_the_agent_is_told(node: FakeDaemon) -> None:
    """Exit code 1; nobody else's text is a command to the terminal."""
    node.says("GET /v1/status", **{**STATUS, "locks": [LOCK]})
    done = node.run("policy", "explain", "researcher", "wiki")
    assert done.code == Exit.NO
    lines = done.out.splitlines()
    assert lines[0].endswith("refused: locked")
    assert lines[-1] == "the agent is told: agent:researcher is locked by bob: stop [2J"
    assert "\x1b" not in done.out


def test_a_revoked_node_a_stale_one_and_one_that_never_knew(node: FakeDaemon) -> None:
    """As the node's own status has it."""
    gone = {"id": "r" * 26, "target": "node:tools-1", "by": "bob"}
    for change, reason in (({"revocations": [gone]}, "revoked"), ({"fresh_as_of": None}, "stale")):
        node.says("GET /v1/status", **{**STATUS, **change})
        assert node.run("policy", "explain", "researcher", "wiki", "--json").json["reason"] == reason


def test_a_name_that_the_policy_does_not_have_is_doubted(node: FakeDaemon) -> None:
    """On stderr; the answer is given all the same."""
    done = node.run("policy", "explain", "reseacher", "wikki")
    assert done.err.splitlines() == [
        'the policy has no agent reseacher; did you mean "researcher"?',
        'the policy has no service wikki; did you mean "wiki"?',
    ]
    assert done.out.splitlines()[0] == "agent reseacher to service wikki: refused: no_grant"


def test_another_time_is_judged_as_if_all_were_well(node: FakeDaemon) -> None:
    """The locks of today say nothing about next year."""
    node.says("GET /v1/status", **{**STATUS, "locks": [LOCK], "fresh_as_of": None})
    body = node.run("policy", "explain", "researcher", "wiki", "--at", "2027-01-31", "--json").json
    assert (body["allowed"], body["at"]) == (True, 1_801_353_600_000_000)
    assert body["supposed"] == "nothing is locked, revoked or stale, and its certificates hold"


def test_an_old_version_comes_from_the_ca(
    node: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would have been answered then."""
    ca: FakeCa = fake_ca(monkeypatch)
    ca.answers["GET /v1/policies/1"] = kept(POLICY.replace("[[grants]]", "[[denies]]"), 1)
    who = credential(tmp_path / "alice")
    done = node.run("--operator", who, "policy", "explain", "researcher", "wiki", "--policy", "1", "--json")
    assert (done.code, done.json["reason"], done.json["policy"]) == (Exit.NO, "denied", "policy 1")


def test_where_it_comes_from_and_goes_to_can_be_said(node: FakeDaemon) -> None:
    """Nodes of services by label are those of the roster."""
    assert (
        node.run("policy", "explain", "researcher", "wiki", "--from", "tools-1", "--json").json["reason"]
        == "misbound"
    )
    assert (
        node.run("policy", "explain", "researcher", "wiki", "--to", "agents-1", "--json").json["reason"]
        == "misbound"
    )
    labelled = POLICY.replace('nodes = ["tools-1"]', 'labels = ["rack-a"]')
    node.says("GET /v1/policy", sequence=3, digest="ab" * 32, text=labelled)
    node.says("GET /v1/status", **{**STATUS, "labels": {"agents-1": ["rack-a", "x"]}})
    assert node.run("policy", "explain", "researcher", "wiki", "--json").json["to"] == "agents-1"


# Requests


@pytest.fixture(autouse=True)
def whole_language(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this version's data path enforces yet is not the point here."""
    from sidecar.policy import load
    from sidecar.policy.features import LANGUAGE

    original = load.load_policy
    monkeypatch.setattr(
        load, "load_policy", lambda text, name, limit=2**20: original(text, name, limit, LANGUAGE)
    )


@pytest.mark.parametrize(
    ("operation", "allowed", "name"),
    [
        (("GET", "/api/x?n=9"), True, "/api/x"),
        (("get", "/%61pi/x?n=1"), True, "/api/x"),
        (("GET", "/api/x?n=10"), False, "/api/x"),
        (("GET", "/api/x"), False, "/api/x"),
        (("POST", "/api/x?n=9"), False, "/api/x"),
    ],
)
def test_a_request_is_judged_in_its_normal_form(
    tmp_path: Path, operation: tuple[str, str], allowed: bool, name: str
) -> None:
    """With its query, which the record and the answer never show."""
    body = offline(tmp_path, HTTP, "researcher", "wiki", *operation, "--json").json
    assert (body["allowed"], body["operation"]) == (allowed, [operation[0].upper(), name])
    checks = [check["what"] for check in body["accounts"][0]["rules"][0]["checks"]]
    assert checks[-1] == ("GET /api/**" if operation[0] == "POST" else "n max 9")


def test_tools_are_judged_with_their_arguments(tmp_path: Path) -> None:
    """And a resource or prompt by its name."""
    rule = 'services = ["wiki"]\nmcp = [{ tools = ["pay"], arguments = { "$.amount" = { max = 10 } } }]'
    text = (
        HTTP.replace('protocol = "http"', 'protocol = "mcp"').partition('services = ["wiki"]\nhttp')[0] + rule
    )
    for amount, allowed in ((10, True), (11, False)):
        words = ("tools/call", "pay", "--arguments", f'{{"amount": {amount}}}', "--json")
        assert offline(tmp_path, text, "researcher", "wiki", *words).json["allowed"] is allowed
    done = offline(tmp_path, text, "researcher", "wiki", "tools/call", "pay", "--arguments", "[]")
    assert (done.code, "a JSON object" in done.err) == (Exit.USAGE, True)


def test_what_no_parser_takes_reaches_no_rule(tmp_path: Path) -> None:
    """It is refused as bad_request, and the line says so."""
    done = offline(tmp_path, HTTP, "researcher", "wiki", "GET", "/a/../b")
    assert (done.code, "refused as bad_request, before any rule is asked" in done.err) == (Exit.NO, True)


@pytest.mark.parametrize(("text", "words"), [(HTTP, ("GET",)), (POLICY, ("GET", "/x"))])
def test_a_request_has_two_words_and_a_protocol(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    """Of a tcp service the stream is all there is to decide."""
    assert offline(tmp_path, text, "researcher", "wiki", *words).code == Exit.USAGE


def test_a_stream_of_several_segments_has_an_account_for_each(tmp_path: Path) -> None:
    """And very many rules are counted, not listed."""
    operations = '[[services.wiki.operations]]\nmethods = ["*"]\npath = "/admin/**"\nsegment = "high-risk"\n'
    spare = "".join(
        f'[[grants]]\nid = "g{n}"\nagents = ["researcher"]\nsegments = ["action"]\n' for n in range(20)
    )
    done = offline(tmp_path, HTTP + operations + spare, "researcher", "wiki")
    assert [line for line in done.out.splitlines() if line.startswith("in segment")] == [
        "in segment retrieval:",
        "in segment high-risk:",
    ]
    assert "  ... and 9 rules more that name the agent, the service or its segment" in done.out.splitlines()
