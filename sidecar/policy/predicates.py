"""Conditions on the query or the arguments of a request, each with a canonical name. Pure and total.

A predicate is about one *subject*: a name of the query, or a JSON path of the arguments. The subject has zero or more
*values* in a request: a query may repeat a name, a path with ``[*]`` has a value for each element. The tests of a
predicate hold for a value together.

    every    for grants: there is at least one value, and the tests hold for each
    some     for denies: the tests hold for one value

An agent that repeats a name to please the rule with one value and the tool with the other (parameter pollution) gains
nothing by it. An element of a list that lacks the rest of the path is a value that nothing is true of.

    equals, in    text, number, true or false; 1 is not "1" and not true
    prefix        text
    min, max      a number, both ends included. In the query: decimal digits, no exponent, no leading zeros.
                  What is no number cannot be compared: no grant trusts it, and every deny stops it
    present       there is a value
    absent        there is none

A name of an argument in another case is the tool's to read as it likes: no grant trusts it, and every deny stops it.

A name tells all of a predicate, so two rules with one condition share it, and a record that holds names holds no value
of any request.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from pki.errors import LocalError
from sidecar.policy.operation import HttpCall, Json, McpCall

Scalar: TypeAlias = "bool | int | float | str"

MAX_PATH_CHARS = 256
MAX_PATH_STEPS = 16


class Subject(StrEnum):
    QUERY = "query"
    ARGUMENT = "argument"


class Reach(StrEnum):
    """How many of a subject's values the tests must hold for."""

    EVERY = "every"
    SOME = "some"


class _Missing:
    """Where an element of a list lacks what a path asks for."""


_MISSING: Final = _Missing()

_STEP = re.compile(
    r'\.([A-Za-z_][A-Za-z0-9_-]*)|\[(0|[1-9][0-9]{0,8})\]|(\[\*\])|\[("(?:[^"\\\x00-\x1f]|\\.)*")\]'
)
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,29})(\.[0-9]{1,30})?")


@dataclass(frozen=True, slots=True)
class JsonPath:
    """A path into a call's arguments: ``$.filter.owner``, ``$.items[0]``, ``$.items[*].id``, ``$["odd name"]``."""

    text: str
    steps: tuple[str | int | None, ...]
    """A member's name, an index, or None for each element."""

    @classmethod
    def parse(cls, text: str) -> "JsonPath":
        """Raises LocalError that completes '"..." is '."""
        wrong = LocalError('no path such as "$.filter.owner", "$.items[0]" or "$.items[*]"')
        if not text.startswith("$") or not 1 < len(text) <= MAX_PATH_CHARS:
            raise wrong
        steps: list[str | int | None] = []
        at = 1
        while at < len(text):
            match = _STEP.match(text, at)
            if match is None:
                raise wrong
            steps.append(_step(match, wrong))
            at = match.end()
        if len(steps) > MAX_PATH_STEPS:
            raise LocalError(f"too long: at most {MAX_PATH_STEPS} steps")
        return cls(text, tuple(steps))

    def values(self, arguments: Mapping[str, Json]) -> list["Json | _Missing"]:
        """What stands at the path; nothing where it leads nowhere."""
        found: list[Json | _Missing] = [dict(arguments)]
        for step in self.steps:
            found = [inner for one in found for inner in _inner(one, step)]
        return found if None in self.steps else [one for one in found if one is not _MISSING]

    def is_disguised(self, arguments: Mapping[str, Json]) -> bool:
        """Whether a name that it asks for stands there in another case: Go's decoder takes ``"Amount"`` for ``amount``."""
        found: list[Json | _Missing] = [dict(arguments)]
        for step in self.steps:
            if isinstance(step, str) and any(_has_variant(one, step) for one in found):
                return True
            found = [inner for one in found for inner in _inner(one, step)]
        return False


def _step(match: re.Match[str], wrong: LocalError) -> str | int | None:
    if match[1]:
        return match[1]
    if match[2]:
        return int(match[2])
    if match[3]:
        return None
    try:
        return str(json.loads(match[4]))
    except ValueError:
        raise wrong from None


def _has_variant(value: "Json | _Missing", name: str) -> bool:
    if not isinstance(value, dict):
        return False
    folded = name.casefold()
    return any(key != name and key.casefold() == folded for key in value)


def _inner(value: "Json | _Missing", step: str | int | None) -> Sequence["Json | _Missing"]:
    if isinstance(step, str):
        return [value[step]] if isinstance(value, dict) and step in value else [_MISSING]
    if not isinstance(value, list):
        return [_MISSING]
    if step is None:
        return value
    return [value[step]] if step < len(value) else [_MISSING]


@dataclass(frozen=True, slots=True)
class Demands:
    """What must be true of a value, all together. None: not asked for. ``one_of`` is ``equals`` and ``in``."""

    one_of: tuple[Scalar, ...] | None = None
    prefix: str | None = None
    low: int | float | None = None
    high: int | float | None = None

    def __str__(self) -> str:
        said = []
        if self.one_of is not None:
            said = [f"in [{','.join(sorted({_json(value) for value in self.one_of}))}]"]
        said += [
            f"{word} {_json(value)}"
            for word, value in (("prefix", self.prefix), ("min", self.low), ("max", self.high))
            if value is not None
        ]
        return " ".join(said) or "present"

    def hold(self, value: "Json | _Missing", number: int | float | None, reach: Reach) -> bool:
        """``number``: the value as one, None when it is none."""
        if value is _MISSING:
            return False
        if self.one_of is not None and not any(_same(value, one) for one in self.one_of):
            return False
        if self.prefix is not None and not (isinstance(value, str) and value.startswith(self.prefix)):
            return False
        if self.low is None and self.high is None:
            return True
        if number is None:
            return reach is Reach.SOME
        return (self.low is None or number >= self.low) and (self.high is None or number <= self.high)


@dataclass(frozen=True, slots=True)
class Predicate:
    """One subject and what must be true of its values. ``tests`` None: the subject has none (``absent``)."""

    subject: Subject
    key: str
    """A name of the query, or a JSON path as text."""
    tests: Demands | None
    reach: Reach

    @property
    def name(self) -> str:
        """Canonical: ``every query "limit" max 100``."""
        if self.tests is None:
            return f"no {self.subject} {_json(self.key)}"
        return f"{self.reach} {self.subject} {_json(self.key)} {self.tests}"

    def __str__(self) -> str:
        """For people: ``limit max 100``."""
        return f"{self.key} {self.tests or 'absent'}"


class Condition:
    """A predicate made ready to be asked often."""

    __slots__ = ("_path", "_predicate", "name")

    def __init__(self, predicate: Predicate) -> None:
        self.name = predicate.name
        self._predicate = predicate
        is_argument = predicate.subject is Subject.ARGUMENT
        self._path = JsonPath.parse(predicate.key) if is_argument else None

    def holds(self, call: HttpCall | McpCall) -> bool:
        """Whether the predicate holds for a call; of the other protocol's calls it never does."""
        values: list[tuple[Json | _Missing, int | float | None]]
        if isinstance(call, HttpCall):
            if self._path is not None:
                return False
            key = self._predicate.key
            values = [(text, _decimal(text)) for name, text in call.query if name == key]
        elif self._path is None:
            return False
        else:
            values = [(value, _number(value)) for value in self._path.values(call.arguments)]
        return self._judge(values)

    def is_disguised(self, call: HttpCall | McpCall) -> bool:
        """Whether ``call`` has what the predicate is about under a name in another case, as some servers read it."""
        return (
            self._path is not None and isinstance(call, McpCall) and self._path.is_disguised(call.arguments)
        )

    def _judge(self, values: "list[tuple[Json | _Missing, int | float | None]]") -> bool:
        tests, reach = self._predicate.tests, self._predicate.reach
        if tests is None:
            return all(value is _MISSING for value, _ in values)
        found = (tests.hold(value, number, reach) for value, number in values)
        return any(found) if reach is Reach.SOME else bool(values) and all(found)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _same(value: object, known: Scalar) -> bool:
    """JSON's equality: numbers by value, and nothing else across types (Python's True is 1)."""
    if isinstance(value, bool) or isinstance(known, bool):
        return value is known
    if isinstance(value, str) or isinstance(known, str):
        return isinstance(value, str) and value == known
    return isinstance(value, int | float) and value == known


def _number(value: object) -> int | float | None:
    """NaN and the infinities are no JSON, but Python's parser reads them."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # isfinite() of an integer with 400 digits raises.
    return value if isinstance(value, int) or math.isfinite(value) else None


def _decimal(text: str) -> int | float | None:
    """One spelling for each number: a tool that reads 010 as eight, or 1e9, is not outwitted through here."""
    if len(text) > 64 or _DECIMAL.fullmatch(text) is None:
        return None
    return float(text) if "." in text else int(text)
