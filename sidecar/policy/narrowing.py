"""What is left of a session's rights for one of its children. Pure; :mod:`sidecar.session.narrowing` proves it.

A child has the rights of its parent and no others; a narrowing takes some away: all services but these, all
operations but these, all time after that. An operation is written as the method and the name of a request, with one
space between (:class:`sidecar.policy.operation.Operation`):

    GET /api/pages        exactly this
    GET /api/*            one path segment, or the rest of one, and no slash
    GET /api/**           whatever begins so
    * /public/**          by any method
    tools/call get_*      a tool whose name begins so

A wildcard stands at the end and nowhere else. So a match costs one comparison, however hostile the name, and whether
one operation covers another is a question with an exact answer: each step of a chain must be seen to only narrow.

A request without a name (MCP: initialize, ping, a list) is the conversation and no access: the policy alone judges it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pki.clock import Wall
from sidecar.policy.operation import Operation

ANY = "*"
"""As a method: every one. At the end of a name: the rest of a segment; twice: anything."""


@dataclass(frozen=True, slots=True)
class Narrowing:
    """All that a child session may still do, the narrowings of its parents taken together.

    ``operations`` None: whatever the services offer. ``children``: ids of the children from the session's own down
    to this one, which comes last; a lock or revocation of any of them hits.
    """

    services: frozenset[str]
    operations: tuple[str, ...] | None
    not_after: Wall
    children: tuple[str, ...] = ()

    def leaves(self, operation: Operation) -> bool:
        """Whether ``operation`` is not narrowed away."""
        if self.operations is None or not operation.name:
            return True
        return any(_matches(one, operation) for one in self.operations)


def is_operation(text: str) -> bool:
    """Whether ``text`` is an operation as a narrowing names one: printable ASCII, one space, wildcards at the end."""
    method, _, name = text.partition(" ")
    exact = name.removesuffix(ANY).removesuffix(ANY)
    is_plain = text.isascii() and text.isprintable() and " " not in name
    return is_plain and bool(method and name) and ANY not in exact and (method == ANY or ANY not in method)


def covers(wide: Iterable[str] | None, narrow: Iterable[str] | None) -> bool:
    """Whether the operations ``wide`` allow all that ``narrow`` allow."""
    if wide is None:
        return True
    return narrow is not None and all(any(_covers(one, each) for one in wide) for each in narrow)


def _matches(pattern: str, operation: Operation) -> bool:
    method, prefix, stars = _parts(pattern)
    known = method in (ANY, operation.method) and operation.name.startswith(prefix)
    return known and _reaches(stars, operation.name[len(prefix) :])


def _covers(wide: str, narrow: str) -> bool:
    method, prefix, stars = _parts(wide)
    their_method, their_prefix, their_stars = _parts(narrow)
    known = method in (ANY, their_method) and their_prefix.startswith(prefix)
    return known and their_stars <= stars and _reaches(stars, their_prefix[len(prefix) :])


def _reaches(stars: int, rest: str) -> bool:
    """Whether a wildcard of so many stars takes in ``rest``."""
    return stars > 1 or not rest or (stars == 1 and "/" not in rest)


def _parts(pattern: str) -> tuple[str, str, int]:
    """Method, the name up to its wildcard, and how many stars that has: 0, 1 or 2."""
    method, _, name = pattern.partition(" ")
    prefix = name.rstrip(ANY)
    return method, prefix, len(name) - len(prefix)
