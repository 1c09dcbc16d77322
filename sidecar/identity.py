"""Who this process is in the mesh: its SPIFFE ID, its key and its certificate chain, kept in one folder."""

from dataclasses import dataclass, field
from pathlib import Path

from pki import chain as chains
from pki import keys
from pki.errors import LocalError, RemoteError
from pki.profile import spiffe_id_of
from pki.spiffe import SpiffeId

KEY_FILE = "key.pem"
CHAIN_FILE = "chain.pem"


@dataclass(frozen=True, slots=True)
class Credential:
    """A key and the chain (leaf first, DER) that says whose it is."""

    id: SpiffeId
    chain: tuple[bytes, ...]
    key: keys.Key = field(repr=False)

    @classmethod
    def load(cls, folder: Path, passphrase: bytes | None = None) -> "Credential":
        """The credential in ``folder``; raises LocalError when it is missing, bad or readable by others."""
        try:
            chain = chains.from_pem((folder / CHAIN_FILE).read_bytes())
            name = spiffe_id_of(chain[0])
        except OSError as error:
            raise LocalError(f"{folder / CHAIN_FILE}: {error.strerror}; run: lockgate join") from None
        except RemoteError as error:
            raise LocalError(f"{folder / CHAIN_FILE}: {error}") from None
        return cls(name, chain, keys.load(folder / KEY_FILE, passphrase))

    def save(self, folder: Path, passphrase: bytes | None = None) -> None:
        """Write both files, the key first: a chain without its key would be a dead credential."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        keys.save(self.key, folder / KEY_FILE, passphrase)
        keys.save_private(chains.to_pem(self.chain), folder / CHAIN_FILE)
