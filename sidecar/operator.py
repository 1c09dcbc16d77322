"""An operator's credential on disk, and what is signed with it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import click
import trio

from pki.bundle import TrustBundle, open_successor
from pki.certificate import read
from pki.chain import to_pem
from pki.clock import SystemClock, Wall
from pki.errors import LocalError, RemoteError, UnreachableError
from pki.fields import Wire
from pki.http.client import Response, connect_ca, fetch_bundles
from pki.keys import load_private, save_private
from pki.statement import Statement, Terms, sign
from pki.svid import BACKDATE
from pki.verify import Identity
from sidecar.address import Address
from sidecar.certify import CaAccess, renew_operator
from sidecar.identity import CHAIN_FILE, Credential, load_bundle, save_bundle

OPERATOR_FILE = "operator.json"
PASSPHRASE_VARIABLE = "LOCKGATE_PASSPHRASE_FILE"


@dataclass(frozen=True, slots=True)
class OperatorCredential:
    """Whose word it is, and where the CA is reached."""

    credential: Credential
    bundle: TrustBundle
    ca: str
    folder: Path

    @property
    def author(self) -> str:
        return str(self.credential.id)

    @classmethod
    def load(cls, folder: Path) -> "OperatorCredential":
        """The credential in ``folder``, asking for its passphrase where it has one; raises LocalError."""
        path = folder / OPERATOR_FILE
        try:
            facts = json.loads(path.read_text())
            ca, encrypted = str(facts["ca"]), bool(facts["encrypted"])
        except OSError as error:
            raise LocalError(f"operator {folder}: {error.strerror}; run: lockgate join") from None
        except (ValueError, KeyError, TypeError):
            raise LocalError(f"operator {folder}: {OPERATOR_FILE} is damaged; join again") from None
        secret = passphrase(f"passphrase of operator {folder.name}") if encrypted else None
        credential = Credential.load(folder, secret)
        if read(credential.chain[0]).not_after <= SystemClock().wall():
            name = credential.id.name
            how = (
                f"let an admin run lockgate token create operator:{name} --role ..., then run: lockgate join"
            )
            raise LocalError(f"operator {name}: its certificate has expired; {how}")
        return cls(credential, load_bundle(folder), ca, folder)

    @property
    def not_after(self) -> Wall:
        return read(self.credential.chain[0]).not_after

    @property
    def is_due(self) -> bool:
        """Whether half of its certificate's life is over."""
        issued = read(self.credential.chain[0]).not_before + BACKDATE
        return 2 * SystemClock().wall() > issued + self.not_after

    def renew(self, seconds: float) -> Wall:
        """Take up the next certificate, for the same key; when that one ends. The folder is the truth afterwards.

        Raises what the CA answers, UnreachableError also when that takes longer than ``seconds``.
        """

        async def ask() -> Identity:
            with trio.fail_after(seconds):
                bundle = await self._bundle_of_now()
                access = CaAccess(Address.parse(self.ca), bundle, self.credential, SystemClock())
                return await renew_operator(access)

        try:
            identity = trio.run(ask)
        except trio.TooSlowError:
            raise UnreachableError(f"CA {self.ca}: no answer within {seconds:g} s") from None
        # The key stays, and with it the passphrase that it lies under.
        save_private(to_pem(identity.chain), self.folder / CHAIN_FILE)
        return identity.not_after

    def sign(self, kind: str, body: Wire, life: int) -> Statement:
        """A statement of this operator that lives ``life`` microseconds from now."""
        now = SystemClock().wall()
        terms = Terms(self.bundle.epoch, now, now + life)
        return sign(kind, body, terms, self.credential.key, self.credential.chain)

    def call_ca(self, method: str, path: str, body: object) -> Response:
        """Ask the CA's API as this operator; raises UnreachableError, RefusedError, RemoteError."""

        async def ask() -> Response:
            credential = self.credential
            try:
                client = await connect_ca(
                    self.ca, self.bundle, credential.chain, credential.key, SystemClock()
                )
            except RemoteError:
                # Perhaps its keys have successors since.
                bundle = await self._bundle_of_now()
                client = await connect_ca(self.ca, bundle, credential.chain, credential.key, SystemClock())
            async with client:
                return await client.request(method, path, json=body)

        return trio.run(ask)

    async def _bundle_of_now(self) -> TrustBundle:
        """The trust bundle, with every rollover since the last time; kept for the next time."""
        bundle = self.bundle
        for later in await fetch_bundles(self.ca, bundle):
            bundle = open_successor(later, bundle)
            save_bundle(later.raw, self.folder)
        return bundle


def save_facts(folder: Path, ca: str, *, encrypted: bool) -> None:
    """Write where the CA is, and whether the key is under a passphrase."""
    save_private(json.dumps({"ca": ca, "encrypted": encrypted}).encode(), folder / OPERATOR_FILE)


def passphrase(prompt: str, *, confirm: bool = False) -> bytes:
    """The passphrase from LOCKGATE_PASSPHRASE_FILE, else from the terminal; raises LocalError without either."""
    path = os.environ.get(PASSPHRASE_VARIABLE)
    if path:
        secret = load_private(Path(path)).strip()
        if not secret:
            raise LocalError(f"{path}: the passphrase in it is empty")
        return secret
    if not _has_terminal():
        raise LocalError(f"{prompt}: no terminal to ask for it; set {PASSPHRASE_VARIABLE} to a file (0600)")
    text: str = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
    return text.encode()


def _has_terminal() -> bool:
    """Whether somebody can be asked: standard input may be a pipe with a token in it, and still there is one."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return os.isatty(0)
    return True
