"""Hostile HTTP requests, each with what the agent is told. None of them may reach the tool."""

from dataclasses import dataclass

H = b"Host: {host}\r\n"


@dataclass(frozen=True)
class Hostile:
    """``raw`` with {host} for the binding's address. ``says`` is in the hint of the refusal."""

    name: str
    raw: bytes
    status: int
    says: str

    def to(self, host: str) -> bytes:
        return self.raw.replace(b"{host}", host.encode())


def _get(target: bytes, *lines: bytes, method: bytes = b"GET") -> bytes:
    return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, target, H, b"".join(line + b"\r\n" for line in lines))


def _post(*lines: bytes, body: bytes = b"") -> bytes:
    return _get(b"/api/x", *lines, method=b"POST") + body


SMUGGLED = b"GET /api/smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"

SMUGGLING = [
    ("cl.te", _post(b"Content-Length: 6", CHUNKED, body=b"0\r\n\r\nX"), 400, "contradict"),
    ("te.cl", _post(CHUNKED, b"Content-Length: 4", body=b"5c\r\n" + SMUGGLED), 400, "contradict"),
    ("te.te space", _post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + SMUGGLED), 400, "proper name"),
    ("te.te tab", _post(b"Transfer-Encoding\t: chunked", body=b"0\r\n\r\n" + SMUGGLED), 400, "proper name"),
    ("te twice", _post(CHUNKED, CHUNKED, body=b"0\r\n\r\n" + SMUGGLED), 501, "other than chunked"),
    ("te identity", _post(CHUNKED, b"Transfer-Encoding: identity", body=SMUGGLED), 501, "other than chunked"),
    ("te gzip", _post(b"Transfer-Encoding: gzip", body=SMUGGLED), 501, "other than chunked"),
    ("te gzip, chunked", _post(b"Transfer-Encoding: gzip, chunked", body=SMUGGLED), 501, "other than chunked"),
    ("te xchunked", _post(b"Transfer-Encoding: xchunked", body=SMUGGLED), 501, "other than chunked"),
    ("te quoted", _post(b'Transfer-Encoding: "chunked"', body=SMUGGLED), 501, "other than chunked"),
    ("te empty", _post(b"Transfer-Encoding:", body=SMUGGLED), 501, "other than chunked"),
    ("te vt", _post(b"Transfer-Encoding: \x0bchunked", body=SMUGGLED), 400, "control byte"),
    ("te folded", _post(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n" + SMUGGLED), 400, "folded"),
    ("te in a fold", _post(b"X: y", b" Transfer-Encoding: chunked", body=SMUGGLED), 400, "folded"),
    ("te after bare cr", _post(b"X: y\rTransfer-Encoding: chunked", body=SMUGGLED), 400, "control byte"),
    ("te after bare lf", _post(b"X: y\nTransfer-Encoding: chunked", body=SMUGGLED), 400, "control byte"),
    ("te after nul", _post(b"X: y\x00\r\nTransfer-Encoding: chunked", body=SMUGGLED), 400, "control byte"),
    ("cl twice", _post(b"Content-Length: 0", b"Content-Length: 50", body=SMUGGLED), 400, "several"),
    ("cl twice alike", _post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"), 400, "several"),
    ("cl list", _post(b"Content-Length: 5, 5", body=b"hello"), 400, "no plain number"),
    ("cl list differs", _post(b"Content-Length: 0, 50", body=SMUGGLED), 400, "no plain number"),
    ("cl plus", _post(b"Content-Length: +5", body=b"hello"), 400, "no plain number"),
    ("cl minus", _post(b"Content-Length: -5", body=b"hello"), 400, "no plain number"),
    ("cl hex", _post(b"Content-Length: 0x5", body=b"hello"), 400, "no plain number"),
    ("cl octal", _post(b"Content-Length: 010", body=b"hello678"), 400, "no plain number"),
    ("cl decimal", _post(b"Content-Length: 5.0", body=b"hello"), 400, "no plain number"),
    ("cl exponent", _post(b"Content-Length: 1e1", body=b"hello"), 400, "no plain number"),
    ("cl underscore", _post(b"Content-Length: 1_0", body=b"hello"), 400, "no plain number"),
    ("cl empty", _post(b"Content-Length:", body=SMUGGLED), 400, "no plain number"),
    ("cl other digits", _post("Content-Length: \u0665".encode(), body=b"hello"), 400, "no plain number"),
    ("cl space inside", _post(b"Content-Length: 1 0", body=b"hello"), 400, "no plain number"),
    ("cl overflows", _post(b"Content-Length: 18446744073709551616", body=b"x"), 400, "no plain number"),
    ("cl absurd", _post(b"Content-Length: " + b"9" * 40, body=b"x"), 400, "no plain number"),
    ("upgrade with a body", _get(b"/api/ws", b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 5"), 400, "body"),
]  # fmt: skip

LINES = [
    ("bare lf", b"GET /api/x HTTP/1.1\nHost: {host}\n\n", 400, "control byte"),
    ("bare lf at the end", b"GET /api/x HTTP/1.1\r\nHost: {host}\n\n", 400, "control byte"),
    ("bare cr", b"GET /api/x HTTP/1.1\rHost: {host}\r\r", 400, "control byte"),
    ("cr cr lf", b"GET /api/x HTTP/1.1\r\r\nHost: {host}\r\n\r\n", 400, "control byte"),
    ("an empty line first", b"\r\n" + _get(b"/api/x"), 400, ""),
    ("white space first", b" " + _get(b"/api/x"), 400, "request line"),
    ("two spaces", b"GET  /api/x HTTP/1.1\r\nHost: {host}\r\n\r\n", 400, "request line"),
    ("a tab", b"GET\t/api/x HTTP/1.1\r\nHost: {host}\r\n\r\n", 400, "request line"),
    ("a space in the target", b"GET /api/x y HTTP/1.1\r\nHost: {host}\r\n\r\n", 400, "request line"),
    ("a second request line", b"GET /api/x HTTP/1.1\r\nGET /api/y HTTP/1.1\r\nHost: {host}\r\n\r\n", 400, "proper name"),
    ("http/0.9", b"GET /api/x\r\n\r\n", 505, "HTTP/1.1 is needed"),
    ("http/1.0", b"GET /api/x HTTP/1.0\r\nHost: {host}\r\n\r\n", 505, "HTTP/1.1 is needed"),
    ("http/1.2", b"GET /api/x HTTP/1.2\r\nHost: {host}\r\n\r\n", 400, "request line"),
    ("http/2.0", b"GET /api/x HTTP/2.0\r\nHost: {host}\r\n\r\n", 400, "request line"),
    ("http/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2"),
    ("lower-case http", b"GET /api/x http/1.1\r\nHost: {host}\r\n\r\n", 505, "HTTP/1.1"),
    ("tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "TLS"),
    ("ssh", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 505, ""),
    ("a folded field", _get(b"/api/x", b"X: y", b" z"), 400, "folded"),
    ("a field folded by a tab", _get(b"/api/x", b"X: y", b"\tz"), 400, "folded"),
    ("a field without colon", _get(b"/api/x", b"Nonsense"), 400, "proper name"),
    ("a field without name", _get(b"/api/x", b": x"), 400, "proper name"),
    ("a name with a space", _get(b"/api/x", b"X Y: z"), 400, "proper name"),
    ("a name with a space after it", _get(b"/api/x", b"X : z"), 400, "proper name"),
    ("a name beyond ascii", _get(b"/api/x", b"X\xe9: z"), 400, "proper name"),
    ("nul in a value", _get(b"/api/x", b"X: a\x00b"), 400, "control byte"),
    ("escape in a value", _get(b"/api/x", b"X: a\x1b[2J"), 400, "control byte"),
    ("delete in a value", _get(b"/api/x", b"X: a\x7f"), 400, "control byte"),
    ("many fields", _get(b"/api/x", *[b"X: y"] * 200), 431, "more than 128"),
    ("a long field", _get(b"/api/x", b"X: " + b"y" * 40_000), 431, "longer than"),
    ("a long line without end", b"GET /" + b"a" * 50_000, 431, "longer than"),
    ("a long target", _get(b"/api/" + b"a" * 9_000), 414, "longer than"),
    ("many parameters", _get(b"/api/x?" + b"&".join([b"a=1"] * 600)), 414, "more than 512"),
]  # fmt: skip

PATHS = [
    ("absolute form", _get(b"http://{host}/api/x"), 400, "not a path"),
    ("absolute form elsewhere", _get(b"http://169.254.169.254/latest"), 400, "not a path"),
    ("authority form", _get(b"{host}"), 400, "not a path"),
    ("asterisk form", _get(b"*", method=b"OPTIONS"), 400, "not a path"),
    ("relative", _get(b"api/x"), 400, "not a path"),
    ("fragment", _get(b"/api/x#y"), 400, "fragment"),
    ("dot dot", _get(b"/api/../admin"), 400, "dot segment"),
    ("dot", _get(b"/api/./x"), 400, "dot segment"),
    ("dot dot last", _get(b"/api/.."), 400, "dot segment"),
    ("dot dot encoded", _get(b"/api/%2e%2e/admin"), 400, "dot segment"),
    ("dot dot half encoded", _get(b"/api/.%2E/admin"), 400, "dot segment"),
    ("dot dot twice encoded", _get(b"/api/%252e%252e/admin"), 400, "encoded twice"),
    ("dot dot thrice encoded", _get(b"/api/%25252e%25252e/admin"), 400, "encoded twice"),
    ("dot dot with parameter", _get(b"/api/..;/admin"), 400, "dot segment"),
    ("dot dot with parameters", _get(b"/api/..;a=b;c/admin"), 400, "dot segment"),
    ("a parameter of a segment", _get(b"/api;x/users"), 400, "a ; in the path"),
    ("an empty parameter", _get(b"/api/users;"), 400, "a ; in the path"),
    ("dot dot overlong", _get(b"/api/%c0%ae%c0%ae/admin"), 400, "not UTF-8"),
    ("dot dot as utf-16", _get(b"/api/%u002e%u002e/admin"), 400, "hexadecimal"),
    ("encoded slash", _get(b"/api%2f..%2fadmin"), 400, "encoded slash"),
    ("encoded slash, upper case", _get(b"/api%2Fx"), 400, "encoded slash"),
    ("slash twice encoded", _get(b"/api%252fx"), 400, "encoded twice"),
    ("backslash", _get(b"/api\\..\\admin"), 400, "backslash"),
    ("encoded backslash", _get(b"/api%5c..%5cadmin"), 400, "backslash"),
    ("double slash", _get(b"//admin"), 400, "empty segment"),
    ("double slash inside", _get(b"/api//x"), 400, "empty segment"),
    ("double slash at the end", _get(b"/api/x//"), 400, "empty segment"),
    ("nul", _get(b"/api/x%00.txt"), 400, "control byte"),
    ("cr lf", _get(b"/api/x%0d%0aX-Evil:%20y"), 400, "control byte"),
    ("tab", _get(b"/api/x%09"), 400, "control byte"),
    ("delete", _get(b"/api/x%7f"), 400, "control byte"),
    ("latin-1", _get(b"/api/caf%e9"), 400, "not UTF-8"),
    ("surrogate", _get(b"/api/%ed%a0%80"), 400, "not UTF-8"),
    ("a lone percent", _get(b"/api/100%"), 400, "hexadecimal"),
    ("percent and one digit", _get(b"/api/%4"), 400, "hexadecimal"),
    ("percent and no digits", _get(b"/api/%zz"), 400, "hexadecimal"),
    ("query with nul", _get(b"/api/x?a=%00"), 400, "NUL"),
    ("query not utf-8", _get(b"/api/x?a=%ff"), 400, "not UTF-8"),
    ("query with a lone percent", _get(b"/api/x?a=%"), 400, "hexadecimal"),
]  # fmt: skip

HEADS = [
    ("no host", b"GET /api/x HTTP/1.1\r\n\r\n", 400, ""),
    ("two hosts", _get(b"/api/x", b"Host: evil.example"), 400, ""),
    ("the same host twice", _get(b"/api/x", b"Host: {host}"), 400, ""),
    ("empty host", b"GET /api/x HTTP/1.1\r\nHost:\r\n\r\n", 421, "Host is neither"),
    ("another host (DNS rebinding)", b"GET /api/x HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421, "Host is neither"),
    ("another port", b"GET /api/x HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n", 421, "Host is neither"),
    ("no port", b"GET /api/x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 421, "Host is neither"),
    ("host with user", b"GET /api/x HTTP/1.1\r\nHost: a@{host}\r\n\r\n", 421, "Host is neither"),
    ("host with path", b"GET /api/x HTTP/1.1\r\nHost: {host}/a\r\n\r\n", 421, "Host is neither"),
    ("host list", b"GET /api/x HTTP/1.1\r\nHost: {host}, evil\r\n\r\n", 421, "Host is neither"),
    ("host with a dot", b"GET /api/x HTTP/1.1\r\nHost: localhost.\r\n\r\n", 421, "Host is neither"),
    ("host as a number", b"GET /api/x HTTP/1.1\r\nHost: 2130706433\r\n\r\n", 421, "Host is neither"),
    ("metadata service", b"GET /api/x HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", 421, "Host is neither"),
    ("foreign origin", _get(b"/api/x", b"Origin: https://evil.example"), 403, "foreign Origin"),
    ("null origin", _get(b"/api/x", b"Origin: null"), 403, "foreign Origin"),
    ("origin that begins well", _get(b"/api/x", b"Origin: http://{host}.evil.example"), 403, "foreign Origin"),
    ("origin of an extension", _get(b"/api/x", b"Origin: chrome-extension://abc"), 403, "foreign Origin"),
    ("one good origin, one bad", _get(b"/api/x", b"Origin: http://{host}", b"Origin: http://evil"), 403, "foreign Origin"),
    ("method override", _get(b"/api/x", b"X-HTTP-Method-Override: DELETE"), 400, "override"),
    ("method override, short", _get(b"/api/x", b"X-HTTP-Method: DELETE"), 400, "override"),
    ("method override, old", _get(b"/api/x", b"X-Method-Override: DELETE"), 400, "override"),
    ("method override, underscores", _get(b"/api/x", b"X_HTTP_Method_Override: DELETE"), 400, "override"),
    ("method override, dots", _get(b"/api/x", b"X.HTTP.Method.Override: DELETE"), 400, "override"),
    ("another spelling of what frames", _get(b"/api/x", b"Content_Length: 4"), 400, "another spelling"),
    ("another spelling of who asks", _get(b"/api/x", b"Authorization_: x", b"Mcp.Method: y"), 400, "another spelling"),
    ("connection takes the host away", _get(b"/api/x", b"Connection: close, Host"), 400, "Connection names"),
    ("connection takes the type away", _get(b"/api/x", b"Connection: content-type"), 400, "Connection names"),
    ("path override", _get(b"/api/x", b"X-Original-URL: /admin"), 400, "override"),
    ("path rewrite", _get(b"/api/x", b"X-Rewrite-URL: /admin"), 400, "override"),
    ("connect", b"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n", 405, "CONNECT"),
    ("connect with a path", _get(b"/api/x", method=b"CONNECT"), 405, "CONNECT"),
    ("trace", _get(b"/api/x", method=b"TRACE"), 405, "TRACE"),
    ("lower-case method", _get(b"/api/x", method=b"get"), 400, "capital letters"),
    ("mixed-case method", _get(b"/api/x", method=b"Get"), 400, "capital letters"),
    ("a method of signs", _get(b"/api/x", method=b"GET|POST"), 400, "capital letters"),
    ("a long method", _get(b"/api/x", method=b"G" * 300), 400, "capital letters"),
    ("websocket as a method", _get(b"/api/x", method=b"WEBSOCKET"), 405, "WEBSOCKET"),
    ("h2c", _get(b"/api/x", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"), 400, "upgrade"),
    ("upgrade to tls", _get(b"/api/x", b"Connection: Upgrade", b"Upgrade: TLS/1.2"), 400, "upgrade"),
    ("upgrade without connection", _get(b"/api/x", b"Upgrade: websocket"), 400, "upgrade"),
    ("upgrade to two", _get(b"/api/x", b"Connection: upgrade", b"Upgrade: websocket, h2c"), 400, "upgrade"),
    ("upgrade of a post", _post(b"Connection: upgrade", b"Upgrade: websocket"), 400, "upgrade"),
]  # fmt: skip

HOSTILE = [Hostile(*row) for table in (SMUGGLING, LINES, PATHS, HEADS) for row in table]

REFUSED_BY_RULE = [
    Hostile("another method", _get(b"/api/x", method=b"DELETE"), 403, "grant"),
    Hostile("another path", _get(b"/admin"), 403, "grant"),
    Hostile("another path, encoded", _get(b"/%61dmin"), 403, "grant"),
    Hostile("a path that begins alike", _get(b"/apix"), 403, "grant"),
    Hostile("the path in capitals", _get(b"/API/x"), 403, "grant"),
    Hostile("a denied path", _get(b"/api/private/x"), 403, "private"),
    Hostile("a denied path, encoded", _get(b"/api/%70rivate/x"), 403, "private"),
    Hostile("a denied path, lower-case escape", _get(b"/api/priv%61te/x?y"), 403, "private"),
    Hostile("a parameter over its limit", _get(b"/q/list?limit=1000"), 403, "grant"),
    Hostile("a parameter twice", _get(b"/q/list?limit=1&limit=1000"), 403, "grant"),
    Hostile("a parameter behind a semicolon", _get(b"/q/list?limit=1;limit=1000"), 403, "grant"),
    Hostile("a parameter's name encoded", _get(b"/q/list?%6cimit=1000"), 403, "grant"),
    Hostile("a parameter's value encoded", _get(b"/q/list?limit=%31000"), 403, "grant"),
    Hostile(
        "a websocket where GET is granted",
        _get(b"/api/x", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: eA=="),
        403,
        "grant",
    ),
]
