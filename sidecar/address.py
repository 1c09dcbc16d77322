"""Where a TCP port is: ``10.0.0.7:7443``, ``[2001:db8::7]:7443``, ``tools.example.org:7443``."""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from typing import Self

from pki.errors import LocalError

MAX_HOST_CHARS = 253

ANY_HOST = "0.0.0.0"  # noqa: S104 - other machines are to reach it; mTLS says which

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host and a port from 1 to 65535. IP addresses are in their one canonical spelling, names in lower case."""

    host: str
    port: int

    def __post_init__(self) -> None:
        """Refuse what cannot be dialled; raises LocalError."""
        if not self.host or _canonical(self.host) != self.host or not 0 < self.port < 65_536:
            raise LocalError(_EXPECTED)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address in ``host:port``, IPv6 in brackets; raises LocalError."""
        host, _, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = _canonical(host[1:-1] if bracketed else host)
        if not host or bracketed != (":" in host) or _PORT.fullmatch(port) is None:
            raise LocalError(_EXPECTED)
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than localhost never counts."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def is_wildcard(self) -> bool:
        """Whether it means every address of this machine: something to listen on, nothing to dial."""
        return self.host in (ANY_HOST, "::")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_EXPECTED = 'not "host:port" (IPv6 in brackets, port 1 to 65535)'


def _canonical(host: str) -> str:
    """The one spelling of a host; empty when it is none."""
    if ":" in host:
        try:
            address = IPv6Address(host)
        except AddressValueError:
            return ""
        return "" if address.scope_id else str(address)
    host = host.lower()
    labels = host.split(".")
    if labels[-1].isascii() and labels[-1].isdigit():
        # The C library reads 127.1, 0177.0.0.1 and 2130706433 as addresses too: one spelling, or a check for
        # loopback and the dial would mean two different hosts.
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            return ""
    named = len(host) <= MAX_HOST_CHARS and all(map(_LABEL.fullmatch, labels))
    return host if named else ""
