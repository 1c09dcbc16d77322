"""The SPIFFE Workload API with the Python library of the SPIFFE project as the program, unchanged."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pki.certificate import read
from sidecar.identity import load_bundle
from tests.mesh import Mesh, dev_mesh, is_root, until

PROGRAM = """
import json, os, sys, threading
from spiffe import WorkloadApiClient, X509Source

os.setuid(int(sys.argv[3]))  # Now that everything is loaded: it may read nothing of ours any more.

def say(**words):
    print(json.dumps(words), flush=True)

def shown(svid):
    return {"id": str(svid.spiffe_id), "serial": f"{svid.leaf.serial_number:x}", "chain": len(svid.cert_chain)}

try:
    client = WorkloadApiClient("unix://" + sys.argv[1])
    if sys.argv[2] == "fetch":
        svid = client.fetch_x509_svid(timeout=20)
        bundles = client.fetch_x509_bundles(timeout=20).bundles
        roots = [f"{one.serial_number:x}" for bundle in bundles for one in bundle.x509_authorities]
        say(svid=shown(svid), domains=[str(one.trust_domain) for one in bundles], roots=roots)
        say(again=shown(client.fetch_x509_svid(timeout=20)))
    else:
        with X509Source(client) as source:
            renewed = threading.Event()
            source.subscribe_for_updates(renewed.set)
            say(svid=shown(source.svid))
            renewed.wait(60)
            say(svid=shown(source.svid))
except Exception as error:
    say(refused=str(error))
"""

NOBODY = 65_534
AGENT = "spiffe://dev.lockgate.internal/agent/researcher/agents-1/"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with dev_mesh(tmp_path_factory.mktemp("workload") / "mesh", "--lifetime", "6s") as one:
        one.kill("agents-1")
        config = one.member("agents-1") / "etc" / "node.toml"
        config.write_text(f"workload-api = true\n{config.read_text()}")
        one.start("agents-1")
        one.ready("agents-1")
        yield one


@contextmanager
def program(mesh: Mesh, what: str, uid: int | None = None) -> "Iterator[subprocess.Popen[str]]":
    """The library's client at work, as this user."""
    socket = mesh.member("agents-1") / "run" / "workload.sock"
    command = [sys.executable, "-c", PROGRAM, str(socket), what, str(os.getuid() if uid is None else uid)]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def said(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


def test_a_program_gets_an_identity_and_the_bundle(mesh: Mesh) -> None:
    """It names nobody: the kernel says whose it is. Asked again, it is the same session."""
    with program(mesh, "fetch") as process:
        first, again = said(process), said(process)
    roots = load_bundle(mesh.member("agents-1") / "lib" / "identity").roots
    assert first["svid"]["id"].startswith(AGENT)
    assert (first["domains"], first["roots"]) == (
        ["dev.lockgate.internal"],
        [f"{read(one).serial:x}" for one in roots],
    )
    assert again["again"]["id"] == first["svid"]["id"]


def test_the_session_ends_with_the_program(mesh: Mesh) -> None:
    """However it dies; and the records say that its key had left the daemon."""
    with program(mesh, "fetch") as process:
        session = said(process)["svid"]["id"].removeprefix(AGENT)
        started = until(
            lambda: mesh.records("agents-1", kind="session", session=session, what="started"), "it"
        )
        assert [one["exported"] for one in started] == [True]
    ended = until(lambda: mesh.records("agents-1", kind="session", session=session, what="ended"), "its end")
    assert ended[0]["why"] == "released"


def test_a_renewed_certificate_reaches_the_program(mesh: Mesh) -> None:
    """Of the same session, on the call that is open."""
    with program(mesh, "follow") as process:
        first, second = said(process)["svid"], said(process)["svid"]
    assert second["id"] == first["id"]
    assert second["serial"] != first["serial"]


@pytest.mark.skipif(not is_root(), reason="only root may run a program as somebody else")
def test_a_program_of_a_user_who_is_no_agent_gets_nothing(
    mesh: Mesh, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The refusal says which user that is."""
    for folder in mesh.member("agents-1").parents:
        if folder.is_relative_to(tmp_path_factory.getbasetemp().parent):
            folder.chmod(0o755)
    with program(mesh, "fetch", uid=NOBODY) as process:
        assert f"no agent of this node runs as uid {NOBODY}" in str(said(process)["refused"])
