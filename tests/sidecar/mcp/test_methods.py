import re
from pathlib import Path

import pytest
from mcp_types import methods as official

from sidecar.mcp.methods import METHODS, SERVER_METHODS, VERSIONS, About, Era
from sidecar.policy.match import MCP, is_conversation
from sidecar.policy.operation import CLOSE, LISTEN, RESPONSE, Operation

DOCS = (Path(__file__).parents[3] / "docs/mcp.md").read_text()
WORDS = {
    About.NOTHING: "the stream",
    About.NAME: "name, arguments",
    About.URI: "URI",
    About.REFERENCE: "what it completes",
    About.FILTER: "every URI in it",
}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_method_of_the_official_schema_is_known(version: str) -> None:
    """By version, requests and notifications apart, and none beside them."""
    requests = {method for method, of in official.CLIENT_REQUESTS if of == version}
    notifications = {method for method, of in official.CLIENT_NOTIFICATIONS if of == version}
    known = {name: method for name, method in METHODS.items() if VERSIONS[version] in method.eras}
    assert {name for name, method in known.items() if not method.notification} == requests
    assert {name for name, method in known.items() if method.notification} == notifications


def test_what_servers_may_send_is_known() -> None:
    """What is not is on record as unknown."""
    sent = {
        method for method, of in (*official.SERVER_REQUESTS, *official.SERVER_NOTIFICATIONS) if of in VERSIONS
    }
    assert sent == SERVER_METHODS


def test_what_is_about_nothing_is_conversation_to_the_policy() -> None:
    """Else a grant of one tool could not be used: nobody would get through the handshake."""
    talk = {name for name in (*METHODS, LISTEN, CLOSE, RESPONSE) if is_conversation(MCP, Operation(name, ""))}
    free = {name for name, method in METHODS.items() if method.about in (About.NOTHING, About.FILTER)}
    assert talk == free | {LISTEN, CLOSE, RESPONSE}


def test_the_documented_methods_are_those_of_the_code() -> None:
    """docs/mcp.md, row by row."""
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \|$", DOCS, re.MULTILINE)
    assert {name: (decided, versions) for name, decided, versions in rows} == {
        name: (
            WORDS[method.about] + ("; filtered" if method.listed else ""),
            "both" if len(method.eras) == len(Era) else next(iter(method.eras)).value,
        )
        for name, method in METHODS.items()
    }
