"""Hostile MCP: what of it no server may ever hear, each with its refusal."""

from sidecar.http.seams import Fields
from sidecar.mcp.refusal import Code
from tests.sidecar.mcp.messages import call, fields, meta, notification, request, stateless

FAULTS = [
    (b"", Code.PARSE_ERROR, "Expecting value"),
    (b"[]", Code.INVALID_REQUEST, "a batch"),
    (b"[" + call("a") + b"]", Code.INVALID_REQUEST, "a batch"),
    (b"7", Code.INVALID_REQUEST, "not a JSON-RPC 2.0"),
    (b"{}", Code.INVALID_REQUEST, "not a JSON-RPC 2.0"),
    (request("ping", jsonrpc="1.0"), Code.INVALID_REQUEST, "not a JSON-RPC 2.0"),
    (request("ping", jsonrpc=2.0), Code.INVALID_REQUEST, "not a JSON-RPC 2.0"),
    (request("ping", id=None), Code.INVALID_REQUEST, "id: not"),
    (request("ping", id=True), Code.INVALID_REQUEST, "id: not"),
    (request("ping", id=1.5), Code.INVALID_REQUEST, "id: not"),
    (request("ping", id=[]), Code.INVALID_REQUEST, "id: not"),
    (request("ping", id="x" * 257), Code.INVALID_REQUEST, "id: not"),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', Code.INVALID_REQUEST, "params no object"),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":null}', Code.INVALID_REQUEST, "params no object"),
    (request(7), Code.INVALID_REQUEST, "method is no string"),
    (request(None), Code.INVALID_REQUEST, "method is no string"),
    (request("ping", Method="tools/call"), Code.PARSE_ERROR, "case only"),
    (request("ping", extra=1), Code.INVALID_REQUEST, "members beside"),
    (request("ping", result={}), Code.INVALID_REQUEST, "members beside"),
    (b'{"jsonrpc":"2.0","id":1}', Code.INVALID_REQUEST, "neither a request"),
    (b'{"jsonrpc":"2.0","id":1,"Method":"ping"}', Code.INVALID_REQUEST, "neither a request"),
    (b'{"jsonrpc":"2.0","result":{}}', Code.INVALID_REQUEST, "neither a request"),
    (b'{"jsonrpc":"2.0","id":1,"result":7}', Code.INVALID_REQUEST, "neither a request"),
    (b'{"jsonrpc":"2.0","id":1,"result":{},"error":{}}', Code.INVALID_REQUEST, "neither a request"),
    (request("tools/delete"), Code.METHOD_NOT_FOUND, "no request"),
    (request("tools/call "), Code.METHOD_NOT_FOUND, "no request"),
    (request("TOOLS/CALL"), Code.METHOD_NOT_FOUND, "no request"),
    (request("tasks/result", {"taskId": "1"}), Code.METHOD_NOT_FOUND, "no request"),
    (request("server/discover"), Code.METHOD_NOT_FOUND, "no request"),
    (request("sampling/createMessage"), Code.METHOD_NOT_FOUND, "no request"),
    (request("notifications/initialized"), Code.METHOD_NOT_FOUND, "no request"),
    (notification("tools/call"), Code.METHOD_NOT_FOUND, "no notification"),
    (notification("notifications/tools/list_changed"), Code.METHOD_NOT_FOUND, "no notification"),
    (request("tools/call"), Code.INVALID_PARAMS, "name is not a string"),
    (request("tools/call", {"name": ""}), Code.INVALID_PARAMS, "name is not a string"),
    (request("tools/call", {"name": ["a"]}), Code.INVALID_PARAMS, "name is not a string"),
    (request("tools/call", {"name": "x" * 257}), Code.INVALID_PARAMS, "name is not a string"),
    (request("tools/call", {"name": "a\u0000"}), Code.INVALID_PARAMS, "do not show"),
    (request("tools/call", {"name": "a\u200b"}), Code.INVALID_PARAMS, "do not show"),
    (request("tools/call", {"name": "a "}), Code.INVALID_PARAMS, "do not show"),
    (request("tools/call", {"name": "a", "arguments": []}), Code.INVALID_PARAMS, "arguments is no object"),
    (request("tools/call", {"name": "a", "arguments": "{}"}), Code.INVALID_PARAMS, "arguments is no object"),
    (request("tools/call", {"name": "a", "Arguments": {}}), Code.INVALID_REQUEST, "in another case"),
    (request("tools/call", {"NAME": "a"}), Code.INVALID_REQUEST, "in another case"),
    (request("tools/call", {"name": "a", "task": {}}), Code.INVALID_PARAMS, "tasks are not supported"),
    (request("resources/read"), Code.INVALID_PARAMS, "a URI that is no string"),
    (request("resources/read", {"uri": "docs://a/../b"}), Code.INVALID_PARAMS, "normal form"),
    (request("resources/read", {"uri": "docs://a/%2e%2e/b"}), Code.INVALID_PARAMS, "normal form"),
    (request("resources/read", {"uri": "docs://a%2Fb"}), Code.INVALID_PARAMS, "normal form"),
    (request("resources/read", {"uri": "docs://a\\b"}), Code.INVALID_PARAMS, "normal form"),
    (request("resources/read", {"uri": "docs://a b"}), Code.INVALID_PARAMS, "normal form"),
    (request("resources/read", {"uri": "docs://{id}"}), Code.INVALID_PARAMS, "normal form"),
    (request("resources/read", {"uri": "DOCS://a"}), Code.INVALID_PARAMS, "normal form"),
    (request("resources/read", {"uri": "/etc/passwd"}), Code.INVALID_PARAMS, "normal form"),
    (request("resources/read", {"uri": "docs://" + "a" * 3_000}), Code.INVALID_PARAMS, "normal form"),
    (request("completion/complete"), Code.INVALID_PARAMS, "ref is neither"),
    (
        request("completion/complete", {"ref": {"type": "ref/tool", "name": "a"}}),
        Code.INVALID_PARAMS,
        "ref is",
    ),
    (request("completion/complete", {"ref": {"type": "ref/prompt"}}), Code.INVALID_PARAMS, "name is not"),
]

"""In the headers of 2025-11-25: the message, its JSON-RPC code, and words of the hint."""

_CALL = request("tools/call", meta({"name": "get", "arguments": {}}))
_LIST = request("tools/list", meta())

JSON_TRICKS: list[tuple[str, bytes]] = [
    ("a key twice", b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}'),
    (
        "a name twice",
        request("tools/call", {"name": "get"}).replace(b'"name"', b'"name":"delete_all","name"'),
    ),
    ("a key twice, escaped", b'{"jsonrpc":"2.0","id":1,"method":"ping","\\u006dethod":"tools/call"}'),
    ("keys but for case", call("get", amount=1).replace(b'"amount"', b'"Amount":9,"amount"')),
    ("a Kelvin sign", call("get", key=1).replace(b'"key"', b'"\xe2\x84\xaaey":9,"key"')),
    ("NaN", call("get", amount=1).replace(b"1}", b"NaN}")),
    ("Infinity", call("get", amount=1).replace(b"1}", b"-Infinity}")),
    ("a number too big", call("get", amount=1).replace(b"1}", b"1e999}")),
    ("an integer too big", call("get", amount=2**53)),
    ("a number of 5000 digits", call("get", amount=1).replace(b"1}", b"1" * 5000 + b"}")),
    ("deep arrays", call("get", x=1).replace(b"1}", b"[" * 5000 + b"]" * 5000 + b"}")),
    ("deep objects", call("get", x=1).replace(b"1}", b'{"a":' * 100 + b"1" + b"}" * 100 + b"}")),
    ("a byte order mark", b"\xef\xbb\xbf" + call("get")),
    ("UTF-16", call("get").decode().encode("utf-16")),
    ("UTF-16 without a mark", call("get").decode().encode("utf-16-le")),
    ("bad UTF-8", call("get").replace(b"get", b"g\xfft")),
    ("overlong UTF-8", call("get").replace(b"get", b"g\xc1\xa5t")),
    ("a surrogate in UTF-8", call("get").replace(b"get", b"g\xed\xa0\x80t")),
    ("a lone surrogate", call("get").replace(b"get", b"g\\ud800t")),
    ("trailing bytes", call("get") + b"x"),
    ("two messages", call("get") + call("delete_all")),
    ("a NUL behind it", call("get") + b"\x00"),
    ("a comment", b"/**/" + call("get")),
    ("single quotes", call("get").replace(b'"', b"'")),
    ("a trailing comma", call("get").replace(b"}}}", b"}},}")),
    ("a control byte in a name", call("get").replace(b"get", b"g\x01t")),
    ("cut off", call("get")[:-1]),
    ("a form", b"jsonrpc=2.0&method=tools/call"),
    ("over the size", call("get", x="x" * (4 * 1024 * 1024))),
]
"""Whose bytes two readers could read differently."""

HEADER_TRICKS: list[tuple[str, bytes, Fields]] = [
    ("another tool", _CALL, stateless("tools/call", "put")),
    ("another tool, wrapped", _CALL, stateless("tools/call", "=?base64?cHV0?=")),
    ("another method", _CALL, stateless("tools/list", "get")),
    ("another case", _CALL, stateless("Tools/call", "get")),
    ("no method", _CALL, stateless("", "get")),
    ("no name", _CALL, stateless("tools/call")),
    ("a name where none belongs", _LIST, stateless("tools/list", "get")),
    ("the body's version only", _CALL, fields()),
    ("the header's version only", call("get"), stateless("tools/call", "get")),
    ("two names", _CALL, (*stateless("tools/call", "get"), (b"mcp-name", b"put"))),
    ("two versions", call("get"), (*fields(), (b"mcp-protocol-version", b"2026-07-28"))),
    (
        "two parameters",
        _CALL,
        (*stateless("tools/call", "get"), (b"mcp-param-a", b"1"), (b"mcp-param-a", b"2")),
    ),
    ("an unknown version", call("get"), fields(mcp_protocol_version="2031-01-01")),
    ("a version of another transport", call("get"), fields(mcp_protocol_version="2024-11-05")),
    ("another type", call("get"), fields(content_type="text/plain")),
    ("no type", call("get"), fields(content_type="")),
    ("another charset", call("get"), fields(content_type="application/json; charset=utf-7")),
    ("a compressed body", call("get"), fields(content_encoding="gzip")),
    ("a session with spaces", call("get"), fields(mcp_session_id="a b")),
    ("the older version by its header", call("get"), fields(mcp_method="tools/list")),
]
"""Whose headers deceive somebody."""

HTTP_TRICKS: list[tuple[str, bytes, int]] = [
    ("another path", b"POST /admin HTTP/1.1", 404),
    ("a path below", b"POST /mcp/x HTTP/1.1", 404),
    ("a slash at the end", b"POST /mcp/ HTTP/1.1", 404),
    ("a query", b"POST /mcp?x=1 HTTP/1.1", 400),
    ("PUT", b"PUT /mcp HTTP/1.1", 405),
    ("PATCH", b"PATCH /mcp HTTP/1.1", 405),
    ("OPTIONS", b"OPTIONS /mcp HTTP/1.1", 405),
    ("a GET with a body", b"GET /mcp HTTP/1.1", 413),
    ("a DELETE with a body", b"DELETE /mcp HTTP/1.1", 413),
]
"""Whose first line is not that of MCP; a body follows each."""


def posted(
    body: bytes, more: Fields, line: bytes = b"POST /mcp HTTP/1.1", host: str = "127.0.0.1:15001"
) -> bytes:
    """The whole HTTP request."""
    head = b"".join(b"%b: %b\r\n" % field for field in more)
    return b"%b\r\nHost: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (line, host.encode(), head, len(body), body)
