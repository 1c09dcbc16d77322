import re
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import LocalError
from sidecar.policy.patterns import (
    MAX_PATH_SEGMENTS,
    MAX_PATTERN_CHARS,
    NamePattern,
    PathPattern,
    is_normal_uri,
    is_plain_name,
    segments_of,
)


@pytest.mark.parametrize(
    ("pattern", "matched", "other"),
    [
        ("/api", ["/api"], ["/api/", "/apis", "/ap", "api", "/API", ""]),
        ("/api/", ["/api/"], ["/api", "/api/x"]),
        ("/", ["/"], ["", "/x", "//"]),
        ("/**", ["/", "/x", "/x/y/", "//"], ["", "x"]),
        ("/api/**", ["/api", "/api/", "/api/x", "/api/x/y"], ["/apis", "/ap", "/"]),
        ("/api/*", ["/api/x", "/api/*"], ["/api/", "/api", "/api/x/y", "/api/x/"]),
        ("/*/x", ["/a/x"], ["/x", "//x", "/a/b/x", "/a/x/"]),
        ("/*/**", ["/a", "/a/", "/a/b"], ["/", "//a"]),
        ("/a%20b/*", ["/a%20b/c"], ["/a b/c"]),
    ],
)
def test_a_path_pattern_matches_whole_segments(pattern: str, matched: list[str], other: list[str]) -> None:
    """* is one that is not empty; ** comes last and is any number of them, also none."""
    compiled = PathPattern.parse(pattern)
    assert [path for path in matched + other if compiled.matches(path)] == matched


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("api", "absolute"),
        ("", "absolute"),
        ("/a b", "as it is sent"),
        ("/a?x=1", "as it is sent"),
        ("/a#x", "as it is sent"),
        ("/\u00e4", "as it is sent"),
        ("/a%2fb", "as it is sent"),
        ("/a%zz", "as it is sent"),
        ("/%61", "not percent-encoded"),
        ("/a/../b", "dot segments"),
        ("/./b", "dot segments"),
        ("/**/x", "comes last"),
        ("/v*", "one whole segment"),
        ("/***", "one whole segment"),
        ("/x" * (MAX_PATH_SEGMENTS + 1), "too deep"),
        ("/" + "x" * MAX_PATTERN_CHARS, "absolute"),
    ],
)
def test_a_pattern_of_no_path_that_is_ever_forwarded_is_refused(pattern: str, why: str) -> None:
    """It would match nothing, and its author would not know."""
    with pytest.raises(LocalError, match=why):
        PathPattern.parse(pattern)


@pytest.mark.parametrize(
    ("pattern", "matched", "other"),
    [
        ("get_page", ["get_page"], ["get_pages", "get_pag", "GET_PAGE"]),
        ("get_*", ["get_", "get_x", "get_/x"], ["get", "xget_"]),
        ("*", ["", "x", "\n"], []),
        ("*page", ["page", "a_page"], ["pages"]),
        ("a*b*c", ["abc", "axbxc", "abbcc"], ["ab", "acb", "abcd"]),
    ],
)
def test_a_star_in_a_name_is_any_run(pattern: str, matched: list[str], other: list[str]) -> None:
    """Also none, and any characters."""
    compiled = NamePattern.name(pattern)
    assert [name for name in matched + other if compiled.matches(name)] == matched


@pytest.mark.parametrize(
    ("pattern", "matched", "other"),
    [
        ("docs://a", ["docs://a"], ["docs://a/"]),
        ("docs://*", ["docs://", "docs://a"], ["docs://a/b"]),
        ("docs://**", ["docs://", "docs://a", "docs://a/b"], ["doc://a"]),
        ("docs://a/*/c", ["docs://a/b/c", "docs://a//c"], ["docs://a/b/b/c"]),
        ("docs://**/c", ["docs:///c", "docs://a/b/c"], ["docs://c"]),
        ("docs://a*/**", ["docs://ab/", "docs://a/b/c"], ["docs://b/a"]),
    ],
)
def test_a_star_in_a_uri_stops_at_a_slash(pattern: str, matched: list[str], other: list[str]) -> None:
    """Two do not."""
    compiled = NamePattern.uri(pattern)
    assert [uri for uri in matched + other if compiled.matches(uri)] == matched


@pytest.mark.parametrize("name", ["", "a b", "a\n", "\u00e4", "a**", "x" * (MAX_PATTERN_CHARS + 1)])
def test_what_is_no_pattern_of_a_name_is_refused(name: str) -> None:
    """Printable ASCII, one star at a time."""
    with pytest.raises(LocalError, match=r"^no "):
        NamePattern.name(name)


@pytest.mark.parametrize(
    ("uri", "is_normal"),
    [
        ("docs://a/b", True),
        ("file:///etc/x%20y", True),
        ("urn:isbn:1", True),
        ("docs://a?x=1#y", True),
        ("docs://a/../b", False),
        ("docs://a/./b", False),
        ("docs://a/..", False),
        ("docs:..", False),
        ("docs://%61", False),
        ("docs://a%2Fb", False),
        ("docs://a%5Cb", False),
        ("docs://a%2fb", False),
        ("docs://a\\b", False),
        ("docs://a b", False),
        ("DOCS://a", False),
        ("docs://\u00e4", False),
        ("docs://a\n", False),
        ("/a", False),
        ("", False),
        ("docs://" + "x" * MAX_PATTERN_CHARS, False),
    ],
)
def test_a_normal_uri_can_be_read_in_one_way(uri: str, is_normal: bool) -> None:
    """Whatever a tool may take for another resource is none; patterns have the same form."""
    assert is_normal_uri(uri) is is_normal
    if not is_normal:
        with pytest.raises(LocalError, match="no URI"):
            NamePattern.uri(uri)


def test_three_stars_are_no_pattern() -> None:
    """Two are any run of characters already."""
    with pytest.raises(LocalError, match="no pattern"):
        NamePattern.uri("docs://***")


def test_names_that_patterns_are_for_are_plain() -> None:
    """Printable ASCII without spaces, at most so long."""
    assert is_plain_name("get_page/2")
    assert not any(map(is_plain_name, ["", "a b", "a\0", "\u202e", "x" * (MAX_PATTERN_CHARS + 1)]))


def test_a_hostile_name_costs_no_more_than_its_length() -> None:
    """A regular expression with as many wildcards would take longer than the universe is old."""
    pattern, name = NamePattern.name("*a" * 30 + "b"), "a" * MAX_PATTERN_CHARS
    before = time.process_time()
    assert not pattern.matches(name)
    assert time.process_time() - before < 2


segments = st.sampled_from(["a", "b", "*", ""])
path_patterns = st.builds(
    lambda parts, rest: "/" + "/".join(parts) + rest,
    st.lists(segments, max_size=3),
    st.sampled_from(["", "/**"]),
)
paths = st.lists(st.sampled_from(["a", "b", ""]), max_size=5).map(lambda parts: "/" + "/".join(parts))


@given(path_patterns, path_patterns, paths)
def test_what_a_path_pattern_contains_it_matches(wide: str, narrow: str, path: str) -> None:
    """Containment never says too much."""
    one, other = PathPattern.parse(wide), PathPattern.parse(narrow)
    if one.contains(other) and other.matches(path):
        assert one.matches(path)


@pytest.mark.parametrize(
    ("wide", "narrow", "does"),
    [
        ("/**", "/a/**", True),
        ("/a/**", "/a", True),
        ("/a/**", "/a/*", True),
        ("/a/*", "/a/b", True),
        ("/*", "/*", True),
        ("/a/*", "/a/**", False),
        ("/a", "/a/**", False),
        ("/a/b", "/a/*", False),
        ("/a/**", "/**", False),
        ("/*", "/", False),
    ],
)
def test_containment_of_paths_is_found(wide: str, narrow: str, does: bool) -> None:
    """Enough of it to tell authors of rules that change nothing."""
    assert PathPattern.parse(wide).contains(PathPattern.parse(narrow)) is does


pieces = st.lists(st.sampled_from(["a", "b", "/", "*", "**"]), max_size=5)


def _pattern(parts: list[str], slashed: bool) -> NamePattern:
    text = re.sub(r"\*{3,}", "**", "".join(parts))
    return NamePattern(text if slashed else text.replace("**", "*"), slashed)


@given(pieces, pieces, st.text("ab/", max_size=6), st.booleans())
def test_what_a_name_pattern_contains_it_matches(
    wide: list[str], narrow: list[str], name: str, slashed: bool
) -> None:
    """Containment never says too much, with one star or two."""
    one, other = _pattern(wide, slashed), _pattern(narrow, slashed)
    if one.contains(other) and other.matches(name):
        assert one.matches(name)


@given(pieces, st.text("ab/\n", max_size=8), st.booleans())
def test_a_name_matches_as_a_regular_expression_says(parts: list[str], name: str, slashed: bool) -> None:
    """Slower to read and quicker to run: the two agree."""
    pattern = _pattern(parts, slashed)
    said = {"*": "[^/]*" if slashed else ".*", "**": ".*"}
    expression = "".join(said.get(part, re.escape(part)) for part in re.split(r"(\*+)", pattern.text))
    assert pattern.matches(name) is (re.fullmatch(expression, name, re.DOTALL) is not None)


@given(st.text())
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    """There is one error, and it says what is wrong."""
    for parse in (PathPattern.parse, NamePattern.name, NamePattern.uri):
        with suppress(LocalError):
            parse(text)


def test_a_path_has_the_segments_between_its_slashes() -> None:
    """The last may be empty."""
    assert [segments_of(path) for path in ("/", "/a", "/a/", "//")] == [("",), ("a",), ("a", ""), ("", "")]


def test_a_pattern_begins_with_its_head() -> None:
    """The text before its first wildcard, by which an index finds it."""
    assert [NamePattern(text).head for text in ("get_*", "*", "get", "a*b*")] == ["get_", "", "get", "a"]
