"""What a rule may say of a request's name: paths of HTTP, names of tools and prompts, URIs of resources.

    /api/pages      exactly this path
    /api/*/edit     * is one whole segment, which is not empty
    /api/**         ** comes last: any number of segments, also none, so /api too
    get_*           in a tool's or prompt's name * is any run of characters
    docs://a/*      in a resource's URI * is any run without a slash, ** any run at all

Nothing is decoded here: a path is compared as it is forwarded, in its normal form, so a pattern must be in that form
too. A URI goes to the tool as the agent wrote it. What is not in normal form could be read by the tool as another
resource (docs://a/../b, docs://%61): :func:`is_normal_uri` tells, and no grant trusts such a URI.

``contains`` is conservative: what it says is contained is; of the rest it says nothing.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from pki.errors import LocalError

ANY = "*"
REST = "**"

MAX_PATTERN_CHARS = 1_024
MAX_PATH_SEGMENTS = 64

_UNRESERVED = re.compile(r"%(?:2D|2E|5F|7E|3[0-9]|[46][1-9A-F]|[57][0-9A])")
_URI = re.compile(r"[a-z][a-z0-9+.-]*:(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-F]{2})*")
_NAME = re.compile(r"[!-~]+")
# RFC 3986 pchar, and * of ours. A path that is forwarded has nothing else.
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-F]{2})*)+")


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A glob over the segments of a path."""

    text: str
    segments: tuple[str, ...]
    """Without the final ``**``."""
    open_ended: bool

    @classmethod
    def parse(cls, text: str) -> "PathPattern":
        """Raises LocalError that completes '"..." is '."""
        if len(text) > MAX_PATTERN_CHARS or _PATH.fullmatch(text) is None:
            raise LocalError('no path such as "/api/**", absolute and percent-encoded as it is sent')
        if _UNRESERVED.search(text):
            raise LocalError("not in normal form: letters, digits and - . _ ~ are not percent-encoded")
        segments = segments_of(text)
        open_ended = segments[-1] == REST
        if open_ended:
            segments = segments[:-1]
        for segment in segments:
            if segment in (".", ".."):
                raise LocalError("not in normal form: it has dot segments")
            if segment == REST:
                raise LocalError("no pattern: ** comes last")
            if ANY in segment and segment != ANY:
                raise LocalError("no pattern: * stands for one whole segment")
        if len(segments) > MAX_PATH_SEGMENTS:
            raise LocalError(f"too deep: at most {MAX_PATH_SEGMENTS} segments")
        return cls(text, segments, open_ended)

    def matches(self, path: str) -> bool:
        """Whether a path in its normal form matches."""
        if not path.startswith("/"):
            return False
        asked = segments_of(path)
        if len(asked) < len(self.segments) or (len(asked) > len(self.segments) and not self.open_ended):
            return False
        return all(
            known == one or (known == ANY and one != "")
            for known, one in zip(self.segments, asked, strict=False)
        )

    def contains(self, other: "PathPattern") -> bool:
        """Whether every path that ``other`` matches is matched."""
        depth = len(self.segments)
        if len(other.segments) < depth or (not self.open_ended and len(other.segments) != depth):
            return False
        if other.open_ended and not self.open_ended:
            return False
        return all(
            known == one or (known == ANY and one != "")
            for known, one in zip(self.segments, other.segments, strict=False)
        )


def segments_of(path: str) -> tuple[str, ...]:
    """``/api/x`` is ``("api", "x")``, ``/api/`` is ``("api", "")``, ``/`` is ``("",)``."""
    return tuple(path[1:].split("/"))


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A glob over a name. ``slashed``: a single ``*`` stops at a slash, as in resource URIs."""

    text: str
    slashed: bool = False

    @classmethod
    def name(cls, text: str) -> "NamePattern":
        """Of tools or prompts; raises LocalError that completes '"..." is '."""
        if not is_plain_name(text):
            raise LocalError("no name, or pattern of one: printable ASCII without spaces")
        if REST in text:
            raise LocalError("no pattern: one * is any run of characters already")
        return cls(text)

    @classmethod
    def uri(cls, text: str) -> "NamePattern":
        """Of resources; raises LocalError that completes '"..." is '."""
        if not is_normal_uri(text):
            raise LocalError('no URI such as "docs://**" in its normal form')
        if "***" in text:
            raise LocalError("no pattern: ** is any run of characters already")
        return cls(text, slashed=True)

    @property
    def head(self) -> str:
        """What every match begins with."""
        return self.text.partition(ANY)[0]

    @property
    def is_exact(self) -> bool:
        return ANY not in self.text

    def matches(self, name: str) -> bool:
        return self.text == name or (not self.is_exact and self._takes(name))

    def contains(self, other: "NamePattern") -> bool:
        """Whether every name that ``other`` matches is matched.

        A wildcard of ``other`` stands for itself here: only a wildcard takes it in, and what takes in the wildcard
        takes in all that it stands for.
        """
        return self.matches(other.text.replace(REST, _DEEP) if self.slashed else other.text)

    def _takes(self, name: str) -> bool:
        """All ways to match at once, a character after the other: linear, where a regular expression backtracks."""
        tokens = _tokens(self.text)
        barred = f"/{_DEEP}" if self.slashed else ""
        places = _past_wildcards({0}, tokens)
        for character in name:
            moved = set()
            for place in places - {len(tokens)}:
                token = tokens[place]
                if token == REST or (token == ANY and character not in barred):
                    moved.add(place)
                elif token == character:
                    moved.add(place + 1)
            places = _past_wildcards(moved, tokens)
        return len(tokens) in places


_DEEP = "\0"
"""Stands for a ``**`` where a pattern is matched by another: no name has it."""


@lru_cache(maxsize=4_096)
def _tokens(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\*\*|.", text, re.DOTALL))


def _past_wildcards(places: set[int], tokens: tuple[str, ...]) -> set[int]:
    """A wildcard may also stand for nothing."""
    found = set(places)
    for place in places:
        after = place
        while after < len(tokens) and tokens[after] in (ANY, REST):
            after += 1
            found.add(after)
    return found


def is_plain_name(name: str) -> bool:
    """Whether the name of a tool or prompt is one that patterns are for."""
    return len(name) <= MAX_PATTERN_CHARS and _NAME.fullmatch(name) is not None


def is_normal_uri(uri: str) -> bool:
    """Whether a URI can be read in one way only, as far as a policy cares (RFC 3986, section 6.2.2)."""
    if len(uri) > MAX_PATTERN_CHARS or _URI.fullmatch(uri) is None or _UNRESERVED.search(uri):
        return False
    # An encoded slash or backslash is a separator to some tools and not to others.
    if "%2F" in uri or "%5C" in uri:
        return False
    return not any(segment in (".", "..") for segment in re.split(r"[/?#:]", uri))
