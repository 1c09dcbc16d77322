import pytest

from pki.clock import Wall
from sidecar.policy.features import LANGUAGE
from sidecar.policy.load import load_policy
from sidecar.policy.trials import Outcome, outcomes
from tests.sidecar.policy.world import NOW, POLICY

HTTP = """\
[segments.watched]
class = "read"
stale-after = "5m"
mode = "observe"
[services.shop]
segment = "action"
labels = ["rack-a"]
target = "127.0.0.1:1"
protocol = "http"
[services.seen]
segment = "watched"
nodes = ["tools-1"]
target = "127.0.0.1:2"
[agents.a]
nodes = ["agents-1"]
uid = 1
[[grants]]
id = "buy"
agents = ["a"]
services = ["shop"]
http = [{ methods = ["GET"], path = "/api/**", query = { n = { max = 9 } } }]
[[tests]]
agent = "a"
service = "shop"
"""


def run(text: str, now: Wall = NOW) -> list[Outcome]:
    return outcomes(load_policy(text.encode(), "policy.toml", enforced=LANGUAGE), now)


@pytest.mark.parametrize(
    ("service", "expect", "passed", "why"),
    [
        ("wiki", "allow", True, "grant read-wiki"),
        ("wiki", "deny", False, "grant read-wiki"),
        ("vault", "allow", False, "deny no-vault keeps agent clerk and vault apart"),
        ("vault", "deny", True, "deny no-vault keeps agent clerk and vault apart"),
    ],
)
def test_a_test_passes_when_the_rules_do_what_it_expects(
    service: str, expect: str, passed: bool, why: str
) -> None:
    """And says which rule it was, passed or not."""
    agent = "researcher" if service == "wiki" else "clerk"
    [one] = run(f'{POLICY}[[tests]]\nagent = "{agent}"\nservice = "{service}"\nexpect = "{expect}"\n')
    assert (one.passed, one.why, one.title) == (passed, why, f"agent {agent} to service {service}")


@pytest.mark.parametrize(
    ("request_", "verdict", "title"),
    [
        ("", "allow", "agent a to service shop"),
        ('request = { method = "GET", path = "/api/x", query = { n = "9" } }', "allow", "agent a to service shop, GET /api/x"),
        ('request = { method = "GET", path = "/api/x", query = { n = "10" } }', "deny", "agent a to service shop, GET /api/x"),
    ],
)  # fmt: skip
def test_a_request_is_asked_with_its_query_and_named_without(request_: str, verdict: str, title: str) -> None:
    """A service by labels stands where the labels are."""
    [one] = run(f'{HTTP}expect = "allow"\n{request_}\n')
    assert (one.verdict, one.title) == (verdict, title)


def test_what_is_only_observed_is_still_refused_by_the_rules() -> None:
    """A test is about what the author wrote, not about how it is enforced yet."""
    [one] = run(HTTP.replace('service = "shop"\n', 'service = "seen"\n') + 'expect = "deny"\n')
    assert (one.passed, one.decision.allowed) == (True, True)


def test_an_agent_without_a_node_and_a_rule_that_has_ended() -> None:
    """Nowhere is a node, too; time is the one that is given."""
    text = POLICY.replace('nodes = ["agents-1"]', "nodes = []").replace(
        'id = "read-wiki"', 'id = "read-wiki"\nexpires = 1970-01-02'
    )
    tests = '[[tests]]\nagent = "researcher"\nservice = "wiki"\nexpect = "deny"\n'
    assert [one.passed for one in run(text + tests)] == [True]
    fit = text.replace("nodes = []", 'nodes = ["agents-1"]') + tests
    assert [one.passed for one in (*run(fit), *run(fit, Wall(0)))] == [True, False]
