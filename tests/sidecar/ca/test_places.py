import socket

from sidecar.address import Address
from sidecar.ca.places import api_addresses, control_addresses
from sidecar.config import CaConfig, load_ca_config


def config(more: str) -> CaConfig:
    return load_ca_config(f'name = "ca-1"\ntrust-domain = "example.org"\n{more}'.encode(), "ca.toml")


def test_a_ca_is_reached_where_it_says() -> None:
    """Behind a translated address, only its admin knows."""
    said = config('advertise = "ca.example.org:443"\ncontrol-advertise = "ca.example.org:444"')
    assert api_addresses(said) == (Address("ca.example.org", 443),)
    assert control_addresses(said) == (Address("ca.example.org", 444),)


def test_a_ca_is_reached_where_it_listens() -> None:
    """When that is one address."""
    said = config('listen = "10.0.0.1:7444"\ncontrol-listen = "[2001:db8::1]:7446"')
    assert api_addresses(said) == (Address("10.0.0.1", 7444),)
    assert control_addresses(said) == (Address("2001:db8::1", 7446),)


def test_a_ca_that_listens_everywhere_is_reached_by_its_hosts_name() -> None:
    """A newcomer that dialled 0.0.0.0 would dial itself."""
    here = socket.gethostname().lower()
    assert api_addresses(config("")) == (Address(here, 7444),)
    assert control_addresses(config("")) == (Address(here, 7446),)
