"""The files in config/ are what a newcomer copies: they load, and what they call the default is the default."""

import re
from pathlib import Path

import pytest

from pki.clock import HOUR
from sidecar.config import (
    AuditTable,
    CaConfig,
    CaLimits,
    Lifetimes,
    NodeConfig,
    NodeLimits,
    Oidc,
    load_ca_config,
    load_node_config,
)
from sidecar.policy.check import Severity, check
from sidecar.policy.load import load_policy
from sidecar.toml import Table

CONFIG = Path(__file__).parents[1] / "config"

# A key or header that only its # keeps from counting.
COMMENTED = re.compile(r"^# (?=[a-z-]+ = |\[)", re.MULTILINE)
EXAMPLES = ("advertise", "control-advertise", "operator", "keep", "keep-bytes")


def text_of(name: str) -> str:
    return (CONFIG / name).read_text()


def with_defaults(name: str) -> bytes:
    """The file with every commented default in force, but for keys that only have examples."""
    lines = [
        line
        for line in text_of(name).splitlines()
        if not line.startswith(tuple(f"# {key} = " for key in EXAMPLES))
    ]
    return COMMENTED.sub("", "\n".join(lines)).encode()


def test_the_node_example_loads() -> None:
    """config/node.toml is accepted as it stands."""
    config = load_node_config(text_of("node.toml").encode(), "node.toml")
    assert (config.name, str(config.ca), config.dev) == ("tools-1", "ca.example.org:7444", False)


def test_the_ca_example_loads() -> None:
    """config/ca.toml is accepted as it stands."""
    assert load_ca_config(text_of("ca.toml").encode(), "ca.toml").name == "ca-1"


def test_the_policy_example_loads_and_means_something() -> None:
    """config/policy.toml has no finding but that an offline check knows no nodes."""
    findings = check(load_policy(text_of("policy.toml").encode(), "policy.toml"))
    assert [(finding.severity, finding.line) for finding in findings] == [(Severity.WARNING, 0)]


def test_what_the_node_example_calls_the_default_is_the_default() -> None:
    """Taking away the # before a key of config/node.toml changes nothing."""
    as_written = load_node_config(text_of("node.toml").encode(), "node.toml")
    assert load_node_config(with_defaults("node.toml"), "node.toml") == as_written
    assert "streams = 4096" in with_defaults("node.toml").decode().splitlines()


def test_what_the_ca_example_calls_the_default_is_the_default() -> None:
    """Taking away the # before a key of config/ca.toml changes nothing."""
    as_written = load_ca_config(text_of("ca.toml").encode(), "ca.toml")
    assert load_ca_config(with_defaults("ca.toml"), "ca.toml") == as_written
    assert 'session = "1h"' in with_defaults("ca.toml").decode().splitlines()


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("node.toml", (NodeConfig, NodeLimits, AuditTable)),
        ("ca.toml", (CaConfig, CaLimits, Lifetimes, Oidc, AuditTable)),
    ],
)
def test_the_examples_name_every_key(name: str, tables: tuple[type[Table], ...]) -> None:
    """A key that no example shows is found by nobody; dev is for `lockgate dev` alone."""
    keys = {field.alias for table in tables for field in table.model_fields.values()}
    shown = set(re.findall(r"^(?:# +)?\[?([a-z-]+)(?:\]| = )", text_of(name), re.MULTILINE))
    assert keys - shown == {"dev"}


def test_the_issuer_of_the_ca_example_is_one() -> None:
    """Indented, because it is no default; taken as it is, it loads."""
    lines = [
        line.removeprefix("#     ") for line in text_of("ca.toml").splitlines() if line.startswith("#     ")
    ]
    config = load_ca_config((text_of("ca.toml") + "\n".join(lines)).encode(), "ca.toml")
    assert config.oidc is not None
    assert config.oidc == config.oidc.model_copy(update={"claim": "sub", "max_age": HOUR})
