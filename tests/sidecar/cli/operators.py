"""Operators' credentials on disk, as `lockgate join` leaves them, and a CA that answers what the test likes."""

import base64
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pki.clock import HOUR, Wall
from pki.errors import LockgateError
from pki.http.client import Response
from sidecar.identity import Credential, save_bundle
from sidecar.operator import OperatorCredential, save_facts
from sidecar.packed import pack
from tests.authority import TinyCa, new_key, tiny_ca

NOWHERE = "127.0.0.1:1"
"""Nothing listens there."""


def credential(
    folder: Path, name: str = "alice", *, ca: TinyCa | None = None, passphrase: bytes | None = None
) -> Path:
    """A credential that is valid now, unless ``ca`` is of another time."""
    ca = ca or tiny_ca(at=Wall(time.time_ns() // 1_000))
    key = new_key()
    who = ca.operator(name)
    Credential(who, ca.issue(who, key, lifetime=12 * HOUR), key).save(folder, passphrase)
    save_bundle(ca.bundle_statement.raw, folder)
    save_facts(folder, NOWHERE, encrypted=passphrase is not None)
    return folder


@dataclass
class FakeCa:
    """Plays the CA's API for every operator of this process. ``answers`` are of one call, ``answer`` is of any."""

    answer: dict[str, Any] | LockgateError = field(default_factory=dict)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)

    def call(self, method: str, path: str, body: object) -> Response:
        self.asked.append((f"{method} {path}", body))
        if f"{method} {path}" in self.answers:
            return Response(200, self.answers[f"{method} {path}"])
        if isinstance(self.answer, LockgateError):
            raise self.answer
        return Response(200, self.answer)


def kept(text: str, sequence: int = 2) -> dict[str, Any]:
    """A version of the policy, as the CA gives it out."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    packed = base64.b64encode(pack(text.encode())).decode()
    return {"sequence": sequence, "digest": digest, "packed": packed}


NONE_YET = {"sequence": 0, "digest": "0" * 64, "packed": base64.b64encode(pack(b"")).decode()}


def fake_ca(monkeypatch: pytest.MonkeyPatch) -> FakeCa:
    fake = FakeCa()
    monkeypatch.setattr(OperatorCredential, "call_ca", fake.call)
    return fake
