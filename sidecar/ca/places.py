"""Where others reach this CA: what ca.toml advertises, else what it listens on, under this host's own name."""

import socket

from sidecar.address import Address
from sidecar.config import CaConfig


def api_addresses(config: CaConfig) -> tuple[Address, ...]:
    """Of the API, for join tokens."""
    return config.advertise or tuple(map(_dialable, config.listen))


def control_addresses(config: CaConfig) -> tuple[Address, ...]:
    """Of the control links, for node.toml."""
    return config.control_advertise or tuple(map(_dialable, config.control_listen))


def _dialable(listen: Address) -> Address:
    return Address(socket.gethostname().lower(), listen.port) if listen.is_wildcard else listen
