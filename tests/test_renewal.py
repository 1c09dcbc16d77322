"""Short-lived credentials: streams live on over renewals, and end without them."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.clients import ask, connect
from tests.mesh import LOCKGATE, Mesh, dev_mesh, until

LIFETIME_SECONDS = 5
OPERATOR_SECONDS = 10
RENEWALS = 3


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh whose nodes and sessions live for seconds."""
    with dev_mesh(tmp_path_factory.mktemp("renewal") / "D", "--lifetime", f"{LIFETIME_SECONDS}s") as mesh:
        yield mesh


def echo(mesh: Mesh) -> socket.socket:
    """A stream to the echo tool, open."""
    stream = connect(int(mesh.env["ECHO"].rpartition(":")[2]))
    assert ask(stream, b"hello") == b"hello"
    return stream


def can_echo(mesh: Mesh) -> bool:
    try:
        with echo(mesh) as stream:
            return passes(stream)
    except (OSError, AssertionError):
        return False


def passes(stream: socket.socket) -> bool:
    return ask(stream, b"still here") == b"still here"


def is_dead(stream: socket.socket) -> bool:
    try:
        return not passes(stream)
    except OSError:
        return True


def renewals(mesh: Mesh, member: str, kind: str) -> int:
    """How often a certificate of this kind was renewed, by the node's own record."""
    return sum(f"/{kind}/" in one["id"] for one in mesh.records(member, kind="renewal"))


def test_no_stream_is_cut_while_certificates_are_renewed_under_it(mesh: Mesh) -> None:
    """Node and session certificates end many times over; the stream that was opened under the first ones goes on."""
    with echo(mesh) as stream:

        def renewed() -> bool:
            assert passes(stream)  # Bytes pass all the while.
            counts = (
                renewals(mesh, "agents-1", "node"),
                renewals(mesh, "agents-1", "agent"),
                renewals(mesh, "tools-1", "node"),
            )
            return min(counts) >= RENEWALS

        until(renewed, f"{RENEWALS} renewals of every certificate")
        assert passes(stream)
    assert mesh.records("agents-1", kind="cut") == mesh.records("tools-1", kind="cut") == []


def test_exported_files_are_replaced_at_each_renewal(mesh: Mesh, tmp_path: Path) -> None:
    """Whoever reads them always finds a certificate and its own key, and before the one before has ended."""
    folder = tmp_path / "export"
    command = [*LOCKGATE, "--dir", str(mesh.member("agents-1")), "session", "start", "--agent", "researcher"]
    with subprocess.Popen(
        [*command, "--export", str(folder), "--json"], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        uid = json.loads(holder.stdout.readline())["uid"]
        seen = set()

        def replaced() -> bool:
            inside = folder / os.readlink(folder / "..data")  # One version, whatever is switched meanwhile.
            with suppress(FileNotFoundError):
                [leaf, *_] = x509.load_pem_x509_certificates((inside / "svid.pem").read_bytes())
                key = serialization.load_pem_private_key((inside / "svid_key.pem").read_bytes(), None)
                assert leaf.public_key() == key.public_key()
                assert leaf.not_valid_after_utc.timestamp() > time.time()
                seen.add(leaf.serial_number)
            return len(seen) > RENEWALS

        until(replaced, f"{RENEWALS} renewals")
        assert folder.stat().st_uid == uid
        holder.send_signal(signal.SIGINT)
        assert holder.wait() == 0
    assert not folder.exists()


def test_without_renewal_a_stream_ends_as_expired(mesh: Mesh) -> None:
    """The CA is gone: what was issued runs out, and live streams with it, on both nodes."""
    with echo(mesh) as stream:
        mesh.kill("ca")
        until(lambda: is_dead(stream), "the stream to end")
    for member in ("agents-1", "tools-1"):
        [cut] = until(lambda name=member: mesh.records(name, kind="cut"), f"the record of {member}")  # type: ignore[misc]  # mypy infers no lambda's default
        assert cut["reason"] == "expired"


def test_a_node_that_slept_past_its_certificate_comes_back_in_grace(mesh: Mesh) -> None:
    """The CA is back, the old key signs for the node, and a new session reaches the tool again."""
    before = {name: renewals(mesh, name, "node") for name in ("agents-1", "tools-1")}
    mesh.start("ca")
    until(lambda: all(renewals(mesh, name, "node") > n for name, n in before.items()), "renewals in grace")
    for session in mesh.cli("session", "ls", "--json").json["sessions"]:
        mesh.cli("session", "end", session["session"])
    until(lambda: mesh.cli("session", "start", "--agent", "researcher").code == 0, "a new session")
    until(lambda: can_echo(mesh), "the tool to be reached again")


def test_after_a_sleep_longer_than_its_certificates_no_byte_passes(mesh: Mesh) -> None:
    """A machine that was suspended judges its streams anew before it carries on, and recovers by itself."""
    stream = echo(mesh)
    cuts = len(mesh.records("agents-1", kind="cut", reason="expired"))
    ends = time.time() + 2 * LIFETIME_SECONDS
    with stream:
        with mesh.paused("agents-1"):
            until(lambda: time.time() > ends, "the certificates to end in its sleep")
            stream.sendall(b"while you were asleep")
        assert is_dead(stream)
    until(lambda: len(mesh.records("agents-1", kind="cut", reason="expired")) > cuts, "the cut record")
    [echoed] = {one["bytes_in"] for one in mesh.records("agents-1", kind="cut", reason="expired")[-1:]}
    assert echoed == len(b"hello")
    mesh.ready("agents-1")


def test_an_operator_at_work_is_renewed_past_the_end_of_the_first_certificate(mesh: Mesh) -> None:
    """Command by command, without being asked, and without a word."""
    ca_toml = mesh.member("ca") / "etc" / "ca.toml"
    ca_toml.write_text(ca_toml.read_text() + f'operator = "{OPERATOR_SECONDS}s"\n')
    mesh.kill("ca")
    mesh.start("ca")
    token = str(mesh.root / "token")
    mesh.cli("token", "create", "operator:carol", "--role", "responder", "--out", token, member="ca")
    assert mesh.cli("join", "--no-passphrase", "--token-file", token, operator="carol").code == 0
    ends = time.time() + OPERATOR_SECONDS

    def works() -> bool:
        assert mesh.cli("lock", "agent:nobody", "--wait", "0s", operator="carol").err == ""
        return time.time() > ends

    until(works, "the first certificate to end")
    assert works()
