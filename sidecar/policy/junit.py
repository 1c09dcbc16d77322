"""The outcome of a policy's tests as JUnit XML, which CI systems show. Pure.

The shape that Jenkins, GitLab and GitHub agree on: one ``testsuite`` in ``testsuites``, a ``testcase`` for each test,
and in it a ``failure`` where it failed.
"""

from collections.abc import Iterable
from html import escape

from sidecar.policy.trials import Outcome


def junit(name: str, outcomes: Iterable[Outcome]) -> str:
    """One XML document in UTF-8; ``name`` is the file's."""
    cases = list(outcomes)
    failures = sum(not one.passed for one in cases)
    counts = f'tests="{len(cases)}" failures="{failures}" errors="0" skipped="0"'
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites name="lockgate policy test" {counts} time="0">',
        f'<testsuite name={_attribute(name)} {counts} time="0">',
        *(line for one in cases for line in _case(name, one)),
        "</testsuite>",
        "</testsuites>",
    ]
    return "\n".join(lines) + "\n"


def _case(file: str, one: Outcome) -> list[str]:
    head = (
        f"<testcase classname={_attribute(file)} name={_attribute(f'{one.title}: {one.test.expect}')}"
        f' file={_attribute(file)} line="{one.test.line}" time="0"'
    )
    if one.passed:
        return [f"{head}/>"]
    message = f"{one.verdict}, not {one.test.expect}: {one.why}"
    return [f"{head}>", f'<failure type="policy" message={_attribute(message)}/>', "</testcase>"]


def _attribute(text: str) -> str:
    """Quoted and escaped, without the control characters that no escape makes legal (XML 1.0, section 2.2)."""
    return f'"{escape("".join(char if char.isprintable() else " " for char in text))}"'
