import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http.seams import Fields
from sidecar.mcp.headers import decode
from sidecar.mcp.message import Message, Unread, read
from sidecar.mcp.refusal import Code
from tests.sidecar.mcp.messages import STATELESS, call, fields, meta, notification, request, stateless

CALL = request("tools/call", meta({"name": "get", "arguments": {}}))
READ = request("resources/read", meta({"uri": "docs://a"}))
LIST = request("tools/list", meta())


def wrapped(value: str) -> str:
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


@pytest.mark.parametrize(
    ("data", "head"),
    [
        (CALL, stateless("tools/call", "get")),
        (CALL, stateless("tools/call", wrapped("get"))),
        (CALL, stateless("tools/call", "get", mcp_param_region="eu")),
        (READ, stateless("resources/read", "docs://a")),
        (LIST, stateless("tools/list")),
        (notification("notifications/cancelled"), stateless("")),
        (notification("notifications/cancelled"), stateless("notifications/cancelled")),
        (call("get"), fields(mcp_method="tools/call", mcp_name="get")),
        (call("get"), fields(mcp_session_id="abc", content_type="application/json; charset=utf-8")),
        (request("initialize"), fields(mcp_protocol_version="")),
    ],
)
def test_headers_that_say_what_the_body_says_pass(data: bytes, head: Fields) -> None:
    """Both versions, with what each requires."""
    assert isinstance(read(data, head), Message)


@pytest.mark.parametrize(
    ("data", "head", "why"),
    [
        (CALL, stateless("tools/call", "put"), "Mcp-Name: does not"),
        (CALL, stateless("tools/call", "GET"), "Mcp-Name: does not"),
        (CALL, stateless("tools/call", wrapped("put")), "Mcp-Name: does not"),
        (CALL, stateless("tools/call", "=?base64?Z2V0=?="), "Mcp-Name: does not"),
        (CALL, stateless("tools/call", "=?base64?Z2V1?="), "Mcp-Name: does not"),
        (CALL, stateless("tools/call", "=?base64?_w==?="), "Mcp-Name: does not"),
        (CALL, stateless("tools/call", "=?base64?/w==?="), "Mcp-Name: does not"),
        (CALL, stateless("tools/call", "=?BASE64?Z2V0?="), "Mcp-Name: does not"),
        (CALL, stateless("tools/call"), "Mcp-Name: missing"),
        (CALL, stateless("tools/list", "get"), "Mcp-Method: does not"),
        (CALL, stateless("Tools/Call", "get"), "Mcp-Method: does not"),
        (CALL, stateless("", "get"), "Mcp-Method: missing"),
        (CALL, fields(), "Mcp-Protocol-Version: does not"),
        (CALL, fields(mcp_protocol_version=""), "Mcp-Protocol-Version: does not"),
        (call("get"), stateless("tools/call", "get"), "Mcp-Protocol-Version: does not"),
        (LIST, stateless("tools/list", "get"), "Mcp-Name: does not"),
        (READ, stateless("resources/read", "docs://b"), "Mcp-Name: does not"),
        (READ, stateless("resources/read"), "Mcp-Name: missing"),
        (call("get"), fields(mcp_method="tools/list"), "Mcp-Method: does not"),
        (call("get"), fields(mcp_name="put"), "Mcp-Name: does not"),
        (request("nonsense"), fields(mcp_name="put"), "Mcp-Name: does not"),
        (notification("notifications/cancelled"), stateless("tools/call"), "Mcp-Method: does not"),
        (call("get"), (*fields(), (b"mcp-protocol-version", b"2025-11-25")), "more than once"),
        (CALL, (*stateless("tools/call", "get"), (b"mcp-name", b"put")), "more than once"),
        (
            CALL,
            (*stateless("tools/call", "get"), (b"mcp-param-x", b"1"), (b"mcp-param-x", b"2")),
            "more than once",
        ),
    ],
)
def test_headers_that_say_otherwise_than_the_body_are_a_mismatch(data: bytes, head: Fields, why: str) -> None:
    """One of two readers was deceived."""
    found = read(data, head)
    assert isinstance(found, Unread)
    assert found.fault.code is Code.HEADER_MISMATCH
    assert why in found.fault.hint


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (fields(mcp_protocol_version="2024-11-05"), Code.UNSUPPORTED_VERSION),
        (fields(mcp_protocol_version="2027-01-01"), Code.UNSUPPORTED_VERSION),
        (fields(mcp_protocol_version="\xff"), Code.UNSUPPORTED_VERSION),
        (fields(content_type="text/plain"), Code.INVALID_REQUEST),
        (fields(content_type=""), Code.INVALID_REQUEST),
        (fields(content_type="application/json; charset=utf-16"), Code.INVALID_REQUEST),
        (fields(content_encoding="gzip"), Code.INVALID_REQUEST),
        (fields(mcp_session_id="a b"), Code.INVALID_REQUEST),
        (fields(mcp_session_id="a" * 257), Code.INVALID_REQUEST),
        ((*fields(), (b"content-type", b"text/plain")), Code.HEADER_MISMATCH),
    ],
)
def test_a_head_that_nobody_can_rely_on_is_refused_before_its_body_is_read(head: Fields, code: Code) -> None:
    """A version that we do not know could mean anything by its headers."""
    found = read(b"\xff", head)
    assert isinstance(found, Unread)
    assert found.fault.code is code


def test_a_client_of_an_unknown_version_learns_the_known_ones() -> None:
    """It may then ask again in one of them (UnsupportedProtocolVersionError)."""
    found = read(b"{}", fields(mcp_protocol_version="2027-01-01"))
    assert isinstance(found, Unread)
    assert found.fault.data["requested"] == "2027-01-01"
    assert STATELESS in str(found.fault.data["supported"])


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_value_survives_its_wrapping(value: str) -> None:
    """Base64 carries what no header can."""
    assert decode(wrapped(value)) == value
