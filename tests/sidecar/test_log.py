import json
from collections.abc import Iterator

import pytest
import structlog
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from sidecar import log
from sidecar.log import QUIET_SECONDS, Refusals


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Configuring is for the whole process."""
    yield
    structlog.reset_defaults()


def test_a_line_tells_time_level_and_facts(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON where a collector reads it."""
    log.configure("info", as_json=True)
    structlog.get_logger().info("serving", node="tools-1")
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"], line["node"]) == ("serving", "info", "tools-1")
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_strangers_text_commands_no_terminal(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """Whoever reads the log sees what was sent, and no more than sees it."""
    log.configure("info", as_json=as_json)
    structlog.get_logger().info("refused", path="/\x1b[2J\x07\u202e\udc80")
    said = capsys.readouterr().err
    assert said.rstrip("\n").isprintable()
    assert "x1b[2J" in said


def test_a_logger_that_is_in_use_hears_of_a_new_level(capsys: pytest.CaptureFixture[str]) -> None:
    """A reload changes what is logged from then on."""
    logger = structlog.get_logger()
    log.configure("warning")
    logger.info("too quiet")
    log.configure("info")
    logger.info("now")
    said = capsys.readouterr().err
    assert "too quiet" not in said
    assert "now" in said


async def test_like_refusals_are_logged_once_in_a_while_and_counted_always(
    autojump_clock: MockClock,
) -> None:
    """A flood from one cause is one line in ten seconds, with the number since the last."""
    refusals = Refusals()
    with capture_logs() as logs:
        for _ in range(5):
            refusals.note("handshake", "no certificate", address="192.0.2.1")
        refusals.note("limit", "too many")
        await trio.sleep(QUIET_SECONDS)
        refusals.note("handshake", "no certificate", address="192.0.2.9")
    assert [(one["cause"], one["count"]) for one in logs] == [
        ("handshake", 1),
        ("limit", 1),
        ("handshake", 5),
    ]
    assert logs[-1]["address"] == "192.0.2.9"
    assert refusals.counts == {"handshake": 6, "limit": 1}
