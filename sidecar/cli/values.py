"""How values are written on the command line: durations, addresses, ids, wall time."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from pki.errors import LocalError, LockgateError
from pki.ids import is_id
from pki.spiffe import is_name, is_trust_domain
from sidecar.address import Address
from sidecar.duration import parse_duration


class Parsed(click.ParamType[Any]):
    """A value as ``parse`` makes it; what ``parse`` refuses is a usage error."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except LockgateError as error:
            self.fail(f"{value!r} is {error}", param, ctx)


def clock_time(at: int | None) -> str:
    """Wall time in microseconds as people write it."""
    if at is None:
        return "never"
    return datetime.fromtimestamp(at / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def printable(text: str) -> str:
    """Somebody else's text, fit for a terminal, to which control characters are commands."""
    return "".join(char if char.isprintable() else " " for char in text)


def _checked(is_good: Callable[[str], bool], what: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not is_good(text):
            raise LocalError(f"not {what}")
        return text

    return parse


def _time(text: str) -> int:
    """Wall time in microseconds; a date is its first instant, and what has no offset is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise LocalError("not a time such as 2027-01-31 or 2027-01-31T12:00:00Z") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


DURATION = Parsed("duration", parse_duration)
"""Integer microseconds."""
TIME = Parsed("time", _time)
"""Wall time, integer microseconds."""
ADDRESS = Parsed("host:port", Address.parse)
NAME = Parsed("name", _checked(is_name, "a name of a-z, 0-9 and inner hyphens"))
TRUST_DOMAIN = Parsed("trust-domain", _checked(is_trust_domain, "a trust domain such as mesh.example.org"))
ID = Parsed("id", _checked(is_id, "an id of 26 characters a-z and 2-7"))
"""Of a session, stream or statement."""
