import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from sidecar.exits import Exit
from tests.sidecar.cli.operators import FakeCa, credential, fake_ca
from tests.sidecar.cli.world import FakeDaemon, lockgate
from tests.sidecar.policy.world import POLICY

TEXT = POLICY.replace('"127.0.0.1:8003"', '"127.0.0.1:8003"\nblast-radius = ["credentials"]')


@pytest.fixture
def node(daemon: FakeDaemon) -> FakeDaemon:
    daemon.says("GET /v1/policy", sequence=3, digest="ab" * 32, text=TEXT)
    daemon.says("GET /v1/status", nodes=["agents-1", "tools-1", "tools-2"])
    return daemon


def test_the_table_says_who_reaches_what_and_what_is_at_stake(node: FakeDaemon) -> None:
    """The worst first."""
    done = node.run("blast-radius", "agent:researcher")
    assert (done.code, done.err) == (Exit.YES, "")
    assert done.out.splitlines() == [
        "agent:researcher reaches 3 things, at worst of high risk",
        "",
        "RISK    AGENT       SERVICE  OPERATION  CLASS   BY",
        "high    researcher  vault    any        mutate  all-actions",
        "medium  researcher  tickets  any        mutate  all-actions",
        "low     researcher  wiki     any        read    read-wiki",
        "",
        "AT STAKE     RISK  WHEN",
        "credentials  high  now",
    ]


def test_json_has_every_row(node: FakeDaemon) -> None:
    """With class, segment, labels, rule and conditions."""
    body = node.run("blast-radius", "node:tools-2", "--json").json
    assert (body["subject"], body["worst"]) == ("node:tools-2", "high")
    assert [(one["service"], one["agent"], one["rule"]) for one in body["reaches"]] == [
        ("vault", "", "beside it"),
        ("tickets", "", "beside it"),
    ]
    assert body["stakes"] == [{"label": "credentials", "risk": "high", "escalated": False}]


def test_the_picture_is_written_to_a_new_file(node: FakeDaemon, tmp_path: Path) -> None:
    """And over no file that is there."""
    picture = tmp_path / "radius.svg"
    assert node.run("blast-radius", "segment:high-risk", "--svg", picture).code == Exit.YES
    assert ET.parse(picture).getroot().tag.endswith("svg")  # noqa: S314 - our own
    again = node.run("blast-radius", "segment:high-risk", "--svg", picture)
    assert (again.code, again.err) == (Exit.NO, f"lockgate: {picture}: File exists\n")


def test_a_name_that_is_not_in_the_policy_is_an_error(node: FakeDaemon) -> None:
    """Mistyped, it must not look harmless; a node without agents and tools is."""
    done = node.run("blast-radius", "agent:reseacher")
    assert (done.code, done.err) == (
        Exit.NO,
        'lockgate: agent:reseacher: not in the policy; did you mean "researcher"?\n',
    )
    assert node.run("blast-radius", "service:zzzzzz").err.endswith(": not in the policy\n")
    assert node.run("blast-radius", "node:nowhere").out == "node:nowhere reaches nothing\n"


@pytest.mark.parametrize("what", ["all", "operator:bob", "agent", "serial:xyz"])
def test_what_has_no_blast_radius_is_a_usage_error(node: FakeDaemon, what: str) -> None:
    """The kinds are in the message."""
    assert node.run("blast-radius", what).code == Exit.USAGE


def test_by_a_file_it_needs_nobody(tmp_path: Path) -> None:
    """Before it is applied."""
    file = tmp_path / "policy.toml"
    file.write_text(TEXT)
    done = lockgate("--dir", tmp_path, "blast-radius", "node:tools-1", "--policy", file, "--json")
    assert {one["service"] for one in done.json["reaches"]} == {"wiki", "tickets"}


@pytest.mark.parametrize(
    ("owner", "subject"),
    [("agent/researcher/agents-1/" + "a" * 26, "agent:researcher"), ("node/tools-2", "node:tools-2")],
)
def test_a_serial_is_traced_to_who_has_it(
    owner: str, subject: str, node: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CA knows; a session reaches what its agent does."""
    ca: FakeCa = fake_ca(monkeypatch)
    ca.answer = {"spiffe_id": f"spiffe://td/{owner}", "lineage": "ab", "not_after": 1}
    done = node.run("--operator", credential(tmp_path / "alice"), "blast-radius", "serial:ab")
    assert done.err == f"serial ab is of spiffe://td/{owner}\n"
    assert done.out.startswith(f"{subject} reaches ")
    assert ca.asked == [("GET /v1/certificates/ab", None)]


def test_an_operators_serial_reaches_no_tool(
    node: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an operator can do stands in the roster."""
    fake_ca(monkeypatch).answer = {"spiffe_id": "spiffe://td/operator/bob"}
    done = node.run("--operator", credential(tmp_path / "alice"), "blast-radius", "serial:ab")
    assert (done.code, "reaches no tool" in done.err) == (Exit.NO, True)


def test_a_long_table_ends_with_how_much_there_is(node: FakeDaemon) -> None:
    """Nobody reads a thousand rows."""
    agents = "".join(f'[agents.a{n}]\nnodes = ["agents-1"]\nuid = {2000 + n}\n' for n in range(110))
    names = ", ".join(f'"a{n}"' for n in range(110))
    grant = f'[[grants]]\nid = "many"\nagents = [{names}]\nservices = ["wiki"]\n'
    node.says("GET /v1/policy", sequence=3, digest="ab" * 32, text=TEXT + agents + grant)
    assert "... and 11 more; --json has all" in node.run("blast-radius", "service:wiki").out.splitlines()
