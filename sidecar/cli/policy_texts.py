"""Policies by what people call them: a file, ``active``, or the sequence of a version that the CA keeps."""

import hashlib
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pki.errors import LocalError, RemoteError
from sidecar.cli.operator import acting
from sidecar.cli.settings import Settings
from sidecar.control.client import call
from sidecar.defaults import POLICY_BYTES, TOML_BYTES

if TYPE_CHECKING:
    from sidecar.operator import OperatorCredential
    from sidecar.policy.model import Policy

ACTIVE = "active"
NO_POLICY = "0" * 64


@dataclass(frozen=True)
class Text:
    """A policy's bytes. ``name`` stands in messages; ``sequence`` is 0 for what is no version.

    Before the first policy there is none: it does not ``exist``, and its digest is all zeros.
    """

    name: str
    data: bytes
    sequence: int = 0
    exists: bool = True

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest() if self.exists else NO_POLICY

    def load(self) -> "Policy | None":
        """The policy; None where there is none yet. Raises ConfigError with every fault."""
        from sidecar.policy.load import load_policy

        return load_policy(self.data, self.name, POLICY_BYTES) if self.exists else None


def resolve(settings: Settings, reference: str) -> Text:
    """What ``reference`` means: ``active`` (here), a version's sequence (at the CA), or a file."""
    if reference == ACTIVE:
        return active_here(settings)
    if reference.isdecimal():
        with acting(settings) as operator:
            return version(operator, reference)
    return of_file(Path(reference), large=True)


def of_file(path: Path, *, large: bool) -> Text:
    """A policy file; raises LocalError when it cannot be read, or is larger than a file by hand."""
    limit = POLICY_BYTES if large else TOML_BYTES
    try:
        with path.open("rb") as source:
            data = source.read(limit + 1)
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror}") from None
    if len(data) > limit:
        how = "" if large else "; --large takes what a program wrote"
        raise LocalError(f"{path}: a policy has at most {limit} bytes{how}")
    return Text(str(path), data)


def active_here(settings: Settings) -> Text:
    """The policy that the daemon of this directory has in force."""
    answer = call(settings.paths.admin_sock, "GET", "/v1/policy")
    return Text(f"policy {answer['sequence']}", answer["text"].encode(), answer["sequence"])


def version(operator: "OperatorCredential", reference: str) -> Text:
    """A version by sequence or digest, or the one in force at the CA; raises RefusedError when there is none."""
    answer = operator.call_ca("GET", f"/v1/policies/{reference}", None).json
    data, sequence = _unpacked(answer), answer["sequence"]
    name = f"policy {sequence}" if sequence else f"proposal {answer['digest'][:12]}"
    text = Text(name, data, sequence, exists=answer["digest"] != NO_POLICY)
    if text.digest != answer["digest"]:
        raise RemoteError(f"CA: {text.name} is not what its digest says")
    return text


def _unpacked(answer: Mapping[str, Any]) -> bytes:
    from sidecar.packed import unpack

    try:
        return unpack(b64decode(answer["packed"], validate=True), POLICY_BYTES)
    except (Base64Error, KeyError, TypeError):
        raise RemoteError("CA: an answer that is not of this API") from None
