import pytest

from pki.clock import HOUR, MINUTE, SECOND
from pki.errors import ConfigError
from sidecar.address import Address
from sidecar.config import load_ca_config, load_node_config

NODE = """\
name = "tools-1"
trust-domain = "example.org"
ca = "127.0.0.1:7444"
ca-control = "127.0.0.1:7446"
"""
CA = """\
name = "ca-1"
trust-domain = "example.org"
"""


def node_faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_node_config(text.encode(), "node.toml")
    return [str(fault) for fault in caught.value.faults]


def ca_faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_ca_config(text.encode(), "ca.toml")
    return [str(fault) for fault in caught.value.faults]


def test_a_node_needs_four_lines() -> None:
    """Who it is and where the CA is; the rest has defaults."""
    config = load_node_config(NODE.encode(), "node.toml")
    assert config.ca == Address("127.0.0.1", 7444)
    assert config.listen == (Address("0.0.0.0", 7443),)
    assert (config.advertise, config.dev, config.operator, config.log_level) == ((), False, None, "info")
    assert config.limits.half_close_idle == MINUTE


def test_a_ca_needs_two_lines() -> None:
    """Who it is; the rest has defaults."""
    config = load_ca_config(CA.encode(), "ca.toml")
    assert config.listen == (Address("0.0.0.0", 7444),)
    assert config.control_listen == (Address("0.0.0.0", 7446),)
    assert (config.lifetimes.session, config.lifetimes.node) == (HOUR, 24 * HOUR)


@pytest.mark.parametrize("text", ['listen = "[::1]:1"', 'listen = ["[::1]:1"]'])
def test_listeners_are_one_address_or_a_list(text: str) -> None:
    """The usual case needs no brackets."""
    assert load_node_config(f"{NODE}{text}".encode(), "node.toml").listen == (Address("::1", 1),)


def test_a_directory_can_have_an_operator() -> None:
    """Commands that are given it need no --operator; the path is absolute, they are run from anywhere."""
    config = load_node_config(f'{NODE}operator = "/d/operators/alice"'.encode(), "node.toml")
    assert config.operator == "/d/operators/alice"


def test_lifetimes_can_be_short() -> None:
    """Tests of renewal need not wait for an hour."""
    config = load_ca_config(f"{CA}[lifetimes]\nsession = '5s'".encode(), "ca.toml")
    assert config.lifetimes.session == 5 * SECOND


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "dev = true",
            "node.toml:1 listen: dev = true listens on loopback only, not on 0.0.0.0:7443",
        ),
        (
            'listen = ["127.0.0.1:1", "10.0.0.1:2"]\ndev = true',
            "node.toml:5 listen: dev = true listens on loopback only, not on 10.0.0.1:2",
        ),
        ("listen = []", "node.toml:5 listen: must name at least one address"),
        ('operator = "alice"', "node.toml:5 operator: must be an absolute path"),
        ("[limits]\nstreams = 0", "node.toml:6 limits.streams: must be at least 1"),
        ("[limits]\nidle = '8d'", "node.toml:6 limits.idle: must be from 100ms to 7d"),
        ("[limits]\nstream = 1", 'node.toml:6 limits.stream: unknown key (did you mean "streams"?)'),
    ],
)
def test_a_bad_node_file_is_refused(text: str, fault: str) -> None:
    """Each refusal says where, what, and what would be right."""
    assert node_faults(f"{NODE}{text}") == [fault]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "listen = '127.0.0.1:1'\ncontrol-listen = '10.0.0.1:2'\ndev = true",
            "ca.toml:4 control-listen: dev = true listens on loopback only, not on 10.0.0.1:2",
        ),
        ("[lifetimes]\nsession = '1s'", "ca.toml:4 lifetimes.session: must be from 2s to 1d"),
    ],
)
def test_a_bad_ca_file_is_refused(text: str, fault: str) -> None:
    """Each refusal says where, what, and what would be right."""
    assert ca_faults(f"{CA}{text}") == [fault]


def test_a_dev_node_listens_on_loopback() -> None:
    """What `lockgate dev` writes is accepted."""
    config = load_node_config(f"{NODE}dev = true\nlisten = '127.0.0.1:1'".encode(), "node.toml")
    assert config.dev


def test_names_are_checked_where_they_are_written() -> None:
    """A name that no certificate could carry is refused before any is asked for."""
    text = NODE.replace("tools-1", "Tools").replace("example.org", "-")
    assert node_faults(text) == [
        'node.toml:1 name: "Tools" is not a name (1 to 63 of a-z, 0-9 and inner hyphens)',
        'node.toml:2 trust-domain: "-" is not a trust domain (a-z, 0-9, inner dots, hyphens, underscores)',
    ]


def test_a_wrong_dev_does_not_hide_other_faults() -> None:
    """The check of the listeners does without the value of dev."""
    assert node_faults(f"{NODE}dev = 1\nlisten = []") == [
        "node.toml:5 dev: must be true or false",
        "node.toml:6 listen: must name at least one address",
    ]


OIDC = f"""{CA}[oidc]
issuer = "https://login.example.org"
audience = "lockgate"
"""


def test_an_issuer_of_id_tokens_has_defaults() -> None:
    """Its keys in a file, who the user is by sub, and an hour since the login."""
    found = load_ca_config(f'{OIDC}jwks = "/etc/lockgate/jwks.json"'.encode(), "ca.toml").oidc
    assert found is not None
    assert (found.claim, found.max_age, found.ca) == ("sub", HOUR, None)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ('jwks = "keys.json"', "an absolute path, or a URL"),
        ('jwks = "http://login.example.org/keys"', "an absolute path, or a URL"),
        ('jwks = "https:///keys"', "an absolute path, or a URL"),
        ('jwks = "https://a:b@login.example.org/keys"', "an absolute path, or a URL"),
        ('jwks = "https://login.example.org/keys"', "the CA that vouches for its host"),
        ('jwks = "/x"\nclaim = "name"', "claim"),
        ('jwks = "/x"\nmax-age = "2d"', "max-age"),
        ("", "jwks"),
    ],
)
def test_an_issuer_that_could_be_anybody_is_refused(more: str, why: str) -> None:
    """Its keys come from this machine, or from a host that proves who it is."""
    assert why in " ".join(ca_faults(OIDC + more))
