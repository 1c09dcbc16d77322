"""Where a private tool is: one fixed place, in one of three shapes. Pure.

    "127.0.0.1:8080"            TCP
    "unix:/run/wiki.sock"       a Unix socket
    "tls://tool.internal:443"   TLS over TCP, with ``ca`` (PEM file on the tool's node) and ``server-name``

A TLS target may be given a client certificate (``inject``): the sidecar holds the tool's credential, the agent never
sees it. A value of ``inject`` is an absolute path of a file that only the daemon can read, or the name of a systemd
credential (LoadCredential=).
"""

from dataclasses import dataclass

from sidecar.address import Address

UNIX = "unix:"
TLS = "tls://"
MAX_UNIX_PATH_BYTES = 107
"""sockaddr_un holds 108 with the final NUL (unix(7))."""


@dataclass(frozen=True, slots=True)
class TcpTarget:
    address: Address

    def __str__(self) -> str:
        return str(self.address)


@dataclass(frozen=True, slots=True)
class UnixTarget:
    path: str

    def __str__(self) -> str:
        return f"{UNIX}{self.path}"


@dataclass(frozen=True, slots=True)
class TlsTarget:
    """``ca`` is the PEM file of the one CA that may vouch for ``server_name``."""

    address: Address
    ca: str
    server_name: str
    client_certificate: str = ""
    """A PEM file with a certificate chain and its key, or the name of a systemd credential; empty for none."""

    def __str__(self) -> str:
        return f"{TLS}{self.address}"


Target = TcpTarget | UnixTarget | TlsTarget


def is_unix_path(path: str) -> bool:
    """Whether a path can be a Unix socket's: absolute, without NUL, short enough."""
    return path.startswith("/") and "\0" not in path and len(path.encode()) <= MAX_UNIX_PATH_BYTES
