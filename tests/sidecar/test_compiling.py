import contextlib
import gc
import sys

import pytest

from pki.errors import ConfigError
from sidecar.compiling import load_aside
from sidecar.defaults import POLICY_BYTES, TOML_BYTES
from sidecar.policy.load import load_policy
from tests.sidecar.ca.world import POLICY

GRANT = '[[grants]]\nid = "g{n}"\nagents = ["researcher"]\nservices = ["wiki"]\nowner = "{pad}"\n'
LARGE = POLICY + "".join(GRANT.format(n=n, pad="x" * 200) for n in range(4_500))
SMALL = POLICY + "".join(GRANT.format(n=n, pad="") for n in range(4))


def test_a_large_policy_is_the_same_policy() -> None:
    """Rule by rule, with their lines, whichever way the file was read."""
    assert len(LARGE) > TOML_BYTES
    policy = load_aside(LARGE.encode(), "policy.toml", POLICY_BYTES)
    assert [rule.id for rule in policy.grants.rules] == ["read-wiki", *(f"g{n}" for n in range(4_500))]
    lines = LARGE.splitlines()
    assert all(lines[rule.line - 1] == "[[grants]]" for rule in policy.grants.rules)
    whole = load_policy((LARGE + "# '''\n").encode(), "policy.toml", POLICY_BYTES)
    assert whole.grants.rules == policy.grants.rules
    small = load_aside(SMALL.encode(), "policy.toml", POLICY_BYTES)
    assert [rule.id for rule in small.grants.rules] == ["read-wiki", "g0", "g1", "g2", "g3"]


@pytest.mark.parametrize("end", ["", "[oops]\n", "[[grants]]\nid = \n", "[grants]\n"])
def test_afterwards_all_is_as_before(end: str) -> None:
    """Garbage is collected again and threads take their usual turns, also when the file has a fault."""
    usual = sys.getswitchinterval()
    outcome = pytest.raises(ConfigError, match=r"policy\.toml") if end else contextlib.nullcontext()
    with outcome:
        load_aside((LARGE + end).encode(), "policy.toml", POLICY_BYTES)
    assert gc.isenabled()
    assert sys.getswitchinterval() == usual


def test_faults_of_a_large_file_have_their_lines() -> None:
    """Of its syntax as of what it says."""
    last = LARGE.count("\n")
    with pytest.raises(ConfigError, match=f"policy.toml:{last + 2}"):
        load_aside(f"{LARGE}[[grants]]\nid = \n".encode(), "policy.toml", POLICY_BYTES)
    with pytest.raises(ConfigError, match=f"policy.toml:{last + 2} "):
        load_aside(f'{LARGE}[[grants]]\nid = "G"\n'.encode(), "policy.toml", POLICY_BYTES)
