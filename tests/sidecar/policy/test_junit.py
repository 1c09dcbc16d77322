import xml.etree.ElementTree as ET
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.junit import junit
from sidecar.policy.trials import Outcome
from tests.sidecar.policy.test_trials import run
from tests.sidecar.policy.world import POLICY

TESTS = "".join(
    f'[[tests]]\nagent = "researcher"\nservice = "wiki"\nexpect = "{expect}"\n'
    for expect in ("allow", "deny")
)


def parsed(name: str, found: list[Outcome]) -> ET.Element:
    return ET.fromstring(junit(name, found).encode())  # noqa: S314 - our own


def test_the_report_has_the_shape_that_ci_systems_read() -> None:
    """Counts on both levels, a case for each test with its file and line, a failure in those that failed."""
    root = parsed("policy.toml", run(POLICY + TESTS))
    [suite] = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    for level in (root, suite):
        assert {key: level.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
            "tests": "2",
            "failures": "1",
            "errors": "0",
            "skipped": "0",
        }
    good, bad = suite
    assert (good.tag, good.get("classname"), good.get("name"), len(good)) == (
        "testcase",
        "policy.toml",
        "agent researcher to service wiki: allow",
        0,
    )
    assert (bad.get("file"), bad.get("line")) == ("policy.toml", str(POLICY.count("\n") + 5))
    [failure] = bad
    assert (failure.tag, failure.get("message")) == ("failure", "allow, not deny: grant read-wiki")


def test_a_policy_without_tests_is_an_empty_suite() -> None:
    """Which is no failure."""
    [suite] = parsed("policy.toml", [])
    assert (suite.get("tests"), len(suite)) == ("0", 0)


@given(st.text(), st.text())
def test_any_text_is_well_formed(name: str, hint: str) -> None:
    """A file's name, or what stands in a hint, writes no XML of its own."""
    one, _ = run(POLICY + TESTS)
    spoilt = replace(one, decision=replace(one.decision, rule=hint))
    [suite] = parsed(name, [spoilt])
    assert len(suite) == 1
