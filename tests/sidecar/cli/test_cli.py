"""The frame of every verb: where global options stand, and how each end is told."""

import errno
from pathlib import Path

import click
import pytest

from pki.errors import ConfigError, Fault, LocalError, RefusedError, RemoteError, UnreachableError
from sidecar import cli
from sidecar.cli.settings import Settings, settings_options
from sidecar.exits import Exit
from tests.sidecar.cli.world import FakeDaemon, lockgate


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """What `lockgate status` raises, whatever is put in here."""
    raised: list[BaseException] = []

    @click.command()
    @settings_options
    def status(settings: Settings) -> int:
        raise raised[0]

    monkeypatch.setattr(cli.Verbs, "get_command", lambda *_: status)
    return raised


ENDS = [
    (LocalError("a: wrong; do b"), Exit.NO),
    (RefusedError("no"), Exit.NO),
    (RemoteError("garbage"), Exit.NO),
    (UnreachableError("the CA is away"), Exit.UNCONFIRMED),
    (KeyboardInterrupt(), Exit.INTERRUPTED),
    (click.UsageError("what?"), Exit.USAGE),
    (PermissionError(13, "Permission denied", "/etc/x"), Exit.NO),
]


@pytest.mark.parametrize(("error", "code"), ENDS, ids=lambda value: type(value).__name__)
def test_every_failure_is_one_line(failing: list[BaseException], error: BaseException, code: int) -> None:
    """On stderr, with what to do next where we know it; never a traceback."""
    failing.append(error)
    done = lockgate("status")
    assert (done.code, done.out) == (code, "")
    said = done.err.strip().splitlines()  # click ends the line of a ^C
    assert said[0].startswith("lockgate: ")
    assert len(said) == (2 if code == Exit.USAGE else 1)


@pytest.mark.parametrize(("error", "code"), ENDS, ids=lambda value: type(value).__name__)
def test_every_failure_is_an_object_with_json(
    failing: list[BaseException], error: BaseException, code: int
) -> None:
    """One on stdout, with the exit code in it; nothing on stderr."""
    failing.append(error)
    done = lockgate("status", "--json")
    assert (done.code, done.err.strip()) == (code, "")
    assert done.json["error"]["exit"] == code
    assert done.json["error"]["message"]


def test_every_fault_of_a_file_is_told(failing: list[BaseException]) -> None:
    """A line each, or all in the object."""
    failing.append(ConfigError([Fault("a:1", "bad"), Fault("a:2", "worse", "mend it")]))
    assert lockgate("status").err == "lockgate: a:1: bad\nlockgate: a:2: worse (mend it)\n"
    assert lockgate("status", "--json").json["error"]["faults"] == [
        {"where": "a:1", "what": "bad", "hint": ""},
        {"where": "a:2", "what": "worse", "hint": "mend it"},
    ]


def test_a_reader_that_has_seen_enough_is_no_failure(failing: list[BaseException]) -> None:
    """`lockgate audit tail | head -1` ends as well as head does."""
    failing.append(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    done = lockgate("status")
    assert (done.code, done.out, done.err) == (Exit.YES, "", "")


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "lock", "ls"],
        ["lock", "--json", "ls"],
        ["lock", "ls", "--json"],
        ["--json", "stream", "ls"],
        ["stream", "--json", "ls"],
        ["stream", "ls", "--json"],
    ],
)
def test_global_options_stand_before_or_after_every_verb(daemon: FakeDaemon, words: list[str]) -> None:
    """Groups included; so does --dir."""
    daemon.says("GET /v1/status", locks=[])
    daemon.says("GET /v1/streams", streams=[])
    assert daemon.run(*words).json
    for place in range(len(words) + 1):
        assert lockgate(*words[:place], "--dir", daemon.root, *words[place:]).code == Exit.YES


def test_the_later_of_two_directories_counts(daemon: FakeDaemon) -> None:
    """What stands nearer to the verb was said on purpose."""
    daemon.says("GET /v1/status", locks=[])
    assert lockgate("--dir", "/nowhere", "lock", "ls", "--dir", daemon.root).code == Exit.YES


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["nonsense"], "No such command"),
        (["--nonsense"], "No such option"),
        (["lock"], "Missing argument"),
        (["lock", "all", "--ttl", "soon"], "not a duration"),
        (["session", "end", "me"], "not an id"),
        (["audit", "tail", "-n", "-1"], "-n"),
    ],
)
def test_a_misuse_says_what_and_where_to_read_on(words: list[str], what: str) -> None:
    """Two lines, exit code 2."""
    done = lockgate(*words)
    assert (done.code, done.out) == (Exit.USAGE, "")
    first, second = done.err.splitlines()
    assert what in first
    assert second.startswith("try: lockgate")
    assert what in lockgate(*words, "--json").json["error"]["message"]


@pytest.mark.parametrize("words", [[], ["policy"], ["ca"]])
def test_a_command_without_its_verb_shows_its_help(words: list[str]) -> None:
    """It is what a newcomer types first. With --json, an object all the same."""
    done = lockgate(*words)
    assert (done.code, done.out) == (Exit.USAGE, "")
    assert "Commands:" in done.err
    assert lockgate("--json", *words).json["error"]["exit"] == Exit.USAGE


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_every_verb_has_help(verb: str) -> None:
    """And the global options in it."""
    done = lockgate(verb, "--help")
    assert done.code == Exit.YES
    assert "--dir DIR" in done.out


def test_the_version_is_that_of_the_package() -> None:
    """`lockgate --version` needs no daemon."""
    assert lockgate("--version").out.startswith("lockgate 0.")


def test_what_stands_after_two_dashes_is_not_ours(tmp_path: Path) -> None:
    """`session exec ... -- curl --json` fails in words for people."""
    done = lockgate(
        "--dir", tmp_path, "session", "exec", "--agent", "a", "--nonsense", "--", "curl", "--json"
    )
    assert (done.code, done.out) == (Exit.USAGE, "")
