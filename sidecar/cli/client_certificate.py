"""`lockgate session client-certificate`: for each `mtls` binding of a session, a file for its clients.

Keys are made here and go nowhere; the daemon sees their public halves. Root writes nothing into an agent's folder: the
files are written with the rights of the session's user, whose they are.
"""

import base64
import json
from pathlib import Path
from typing import Any

import click

from pki.errors import RefusedError
from sidecar.cli.settings import Settings, settings_options
from sidecar.cli.values import ID, clock_time
from sidecar.control.client import call
from sidecar.exits import Exit

ROOTS_FILE = "ca.crt"
"""No service's file has this name: theirs end in .pem."""


@click.command(name="client-certificate")
@click.argument("session_id", metavar="ID", type=ID)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@settings_options
def client_certificate(settings: Settings, session_id: str, folder: Path) -> int:
    """Write certificates and keys for the mtls bindings of a session into DIR, in place of older ones.

    DIR/SERVICE.pem is for curl's --cert, DIR/ca.crt for --cacert. They end when the session's certificate does: run
    this again before.
    """
    mine = call(settings.paths.agent_sock, "GET", "/v1/sessions")["sessions"]
    uid = next((one["uid"] for one in mine if one["session"] == session_id), None)
    if uid is None:
        raise RefusedError(f"session {session_id}: you have no such session on this node")
    answer = write_client_certificates(settings, session_id, uid, folder)
    files = [f"  {service} {path}" for service, path in answer["client_certificates"].items()]
    settings.emit(answer, "\n".join([f"until {clock_time(answer['not_after'])}", *files]))
    return Exit.YES


def write_client_certificates(settings: Settings, session: str, uid: int, folder: Path) -> dict[str, Any]:
    """Ask for one certificate for each binding and write them; paths by service, and when the first ends."""
    from pki import keys, svid
    from sidecar.become import run_as

    place = folder.absolute()
    path = f"/v1/sessions/{session}/client-certificates"
    services = call(settings.paths.agent_sock, "GET", path)["services"]
    if not services:
        raise RefusedError(
            'no binding of this agent here has callers = "mtls": it needs no client certificate'
        )
    files, ends = {}, []
    for service in services:
        key = keys.generate()
        csr = base64.b64encode(svid.request(key)).decode()
        issued = call(settings.paths.agent_sock, "POST", path, {"service": service, "csr": csr})
        files[f"{service}.pem"] = issued["certificate"] + keys.to_pem(key).decode()
        files[ROOTS_FILE] = issued["roots"]
        ends.append(issued["not_after"])
    run_as(uid, lambda: _save(place, files))
    paths = {service: str(place / f"{service}.pem") for service in services}
    return {"client_certificates": paths, "ca": str(place / ROOTS_FILE), "not_after": min(ends)}


def _save(folder: Path, files: dict[str, str]) -> bytes:
    """Each is replaced whole: a certificate and its key are never of two issues."""
    from pki import keys

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in files.items():
        keys.save_private(text.encode(), folder / name)
    return json.dumps(sorted(files)).encode()
