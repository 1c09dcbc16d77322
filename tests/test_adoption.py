"""The road to enforcement: watch what agents do, write down what they need, refuse the rest. docs/adoption.md in a test."""

import csv
import io
from collections.abc import Iterator

import pytest

from tests.mesh import Mesh, curl, dev_mesh, until

OBSERVE = '[segments.retrieval]\nmode = "observe"'


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The sample policy without its grant of the wiki, and the wiki's segment observed."""
    with dev_mesh(tmp_path_factory.mktemp("adoption") / "D") as mesh:
        text = (mesh.root / "policy.toml").read_text()
        begin = text.index('[[grants]]\nid = "read-wiki"')
        text = text[:begin] + text[text.index("[[grants]]", begin + 1) :]
        tests = [
            part for part in text.split("[[tests]]") if 'service = "wiki"' not in part or "services." in part
        ]
        apply(mesh, "[[tests]]".join(tests).replace("[segments.retrieval]", OBSERVE, 1))
        yield mesh


def apply(mesh: Mesh, text: str) -> None:
    policy = mesh.root / "own.toml"
    policy.write_text(text)
    done = mesh.cli("policy", "apply", str(policy), "--yes", "--wait", "20s", operator="alice")
    assert done.code == 0, done.out + done.err


def status_of(mesh: Mesh, path: str, *words: str) -> str:
    return curl("-o", "/dev/null", "-w", "%{http_code}", *words, f"{mesh.env['WIKI']}{path}").stdout.decode()


def test_the_road_from_watching_to_enforcing(mesh: Mesh) -> None:
    """Observed, everything passes and is told loudly; granted and enforced, what is needed passes and nothing else."""
    for number in range(4):
        assert status_of(mesh, "/api/pages") == "200"
        assert status_of(mesh, f"/api/pages/{number}") == "404"
    assert status_of(mesh, "/api/pages/welcome", "-X", "POST", "-d", "mine now") in ("200", "201", "204")
    # The streams that carried them count, too.
    loud = "OBSERVED   retrieval: NOT ENFORCED; it would have refused 18 no_grant"
    until(lambda: loud in mesh.cli("status", member="tools-1").out, "the status to say so")
    [record] = mesh.records(
        "tools-1", kind="request", operation={"method": "POST", "name": "/api/pages/welcome"}
    )
    assert (record["verdict"], record["reason"]) == ("would_deny", "no_grant")

    listed = mesh.cli("inventory", "--json", member="tools-1").json
    wiki = {one["operation"]: one for one in listed["lines"] if one["service"] == "wiki"}
    assert (wiki["GET /api/pages/*"]["would_deny"], wiki["GET /api/pages/*"]["covered"]) == (4, False)
    assert "work-on-tickets" in listed["unused"]
    rows = list(csv.DictReader(io.StringIO(mesh.cli("inventory", "--csv", member="tools-1").out)))
    assert {row["operation"] for row in rows if row["service"] == "wiki"} == set(wiki)

    suggested = mesh.cli("policy", "suggest", "--since", "1h", member="tools-1")
    assert suggested.code == 0, suggested.err
    assert '{ methods = ["POST"], path = "/api/pages/welcome" },  # seen 1 times; RARE' in suggested.out
    kept = "".join(line for line in suggested.out.splitlines(keepends=True) if "RARE" not in line)
    apply(mesh, (mesh.root / "own.toml").read_text().replace(OBSERVE, "[segments.retrieval]") + "\n" + kept)

    for number in range(4):
        assert status_of(mesh, "/api/pages") == "200"
        assert status_of(mesh, f"/api/pages/{number}") == "404"
    assert status_of(mesh, "/api/pages/welcome", "-X", "POST", "-d", "mine now") == "403"
    assert status_of(mesh, "/admin") == "403"
    assert "OBSERVED" not in mesh.cli("status", member="tools-1").out
    for node in ("agents-1", "tools-1"):
        redecided = mesh.cli("audit", "verify", "--redecide", "--json", member=node)
        assert redecided.json["disagreements"] == 0, redecided.out


def test_observing_softens_no_lock(mesh: Mesh) -> None:
    """Nor anything else but what a rule, or its want, would refuse."""
    text = (mesh.root / "own.toml").read_text()
    apply(mesh, text.replace("[segments.retrieval]", OBSERVE, 1))
    assert status_of(mesh, "/admin") == "404"
    locked = mesh.cli("lock", "agent:researcher", "--json", operator="bob").json
    assert status_of(mesh, "/admin") in ("000", "403")
    assert mesh.cli("unlock", locked["id"], operator="bob").code == 0
    apply(mesh, text)


def test_an_objective_is_measured_and_told(mesh: Mesh) -> None:
    """With what is left of its budget; one that nobody can keep burns fast, and status says so."""
    text = (mesh.root / "own.toml").read_text()
    kept = 'slo = { p99 = "60s", objective = 99.0 }'
    apply(mesh, text.replace("[segments.retrieval]", f"[segments.retrieval]\n{kept}", 1))
    assert status_of(mesh, "/api/pages") == "200"
    told = mesh.cli("slo", "--json", member="tools-1")
    assert (told.code, told.json["segments"]["retrieval"]["missed"]) == (0, 0)
    assert told.json["segments"]["retrieval"]["total"] >= 1
    apply(
        mesh, text.replace("[segments.retrieval]", f"[segments.retrieval]\n{kept.replace('60s', '1ms')}", 1)
    )
    for _ in range(10):
        status_of(mesh, "/api/pages")
    slow = mesh.cli("slo", "--json", member="agents-1").json["segments"]["retrieval"]
    assert slow["total"] >= 10
    assert ("FAST BURN" in mesh.cli("status", member="agents-1").out) is slow["fast"]
    apply(mesh, text)
    assert mesh.cli("slo", member="agents-1").out.strip() == "no segment has an objective"
