"""nginx, haproxy and stunnel as pairs: one process a side, set up as near to each other as they can be.

All of them: mutual TLS 1.3, X25519, TLS_AES_256_GCM_SHA384, P-256 certificates checked on both sides, no session
resumption (a resumed session skips the client's certificate), TCP_NODELAY, one thread where there is a choice.
Everything else is their default.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.certificates import NAME, Files, issue
from tests.bench.pairs import Pair, Site, Start, first_words, listens, running

NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
SUITE = "TLS_AES_256_GCM_SHA384"
GROUP = "X25519"


def available() -> dict[str, Start]:
    """The peers that are installed here, nginx first: ratios are to it."""
    found: dict[str, Start] = {}
    if shutil.which("nginx") and NGINX_STREAM.exists():
        found["nginx"] = nginx
    if shutil.which("haproxy"):
        found["haproxy"] = haproxy
    if shutil.which("stunnel4"):
        found["stunnel"] = stunnel
    return found


def versions() -> dict[str, str]:
    """What is installed, in its own words."""
    words = {
        "nginx": first_words("nginx", "-v"),
        "haproxy": first_words("haproxy", "-v"),
        "stunnel": first_words("stunnel4", "-version", within="stunnel"),
    }
    return {name: words[name] for name in available()}


@contextmanager
def nginx(site: Site) -> Iterator[Pair]:
    """nginx stream, without a master process."""
    files = issue(site.folder)
    server = f"""
        listen 127.0.0.1:{site.between} ssl backlog=1024;
        proxy_pass 127.0.0.1:{site.target};
        ssl_certificate {files.server};
        ssl_certificate_key {files.server_key};
        ssl_client_certificate {files.root};
        ssl_verify_client on;
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites {SUITE};
        ssl_ecdh_curve {GROUP};
        ssl_session_tickets off;
        ssl_session_cache off;"""
    client = f"""
        listen 127.0.0.1:{site.entrance} backlog=1024;
        proxy_pass 127.0.0.1:{site.between};
        proxy_ssl on;
        proxy_ssl_certificate {files.client};
        proxy_ssl_certificate_key {files.client_key};
        proxy_ssl_trusted_certificate {files.root};
        proxy_ssl_verify on;
        proxy_ssl_name {NAME};
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_conf_command Ciphersuites {SUITE};
        proxy_ssl_conf_command Groups {GROUP};
        proxy_ssl_session_reuse off;"""
    with sides(
        "nginx", site, _nginx_side(site, "server", server), _nginx_side(site, "client", client)
    ) as pair:
        yield pair


@contextmanager
def haproxy(site: Site) -> Iterator[Pair]:
    """haproxy in TCP mode, one thread. Its client side offers X25519 first; the server side takes nothing else."""
    files = issue(site.folder)
    server = f"""
  bind 127.0.0.1:{site.between} ssl crt {files.server} ca-file {files.root} verify required ssl-min-ver TLSv1.3 \
ciphersuites {SUITE} curves {GROUP} no-tls-tickets backlog 1024
  server target 127.0.0.1:{site.target}"""
    client = f"""
  bind 127.0.0.1:{site.entrance} backlog 1024
  server other 127.0.0.1:{site.between} ssl crt {files.client} ca-file {files.root} verify required \
verifyhost {NAME} ssl-min-ver TLSv1.3 ciphersuites {SUITE} no-ssl-reuse"""
    with sides(
        "haproxy", site, _haproxy_side(site, "server", server), _haproxy_side(site, "client", client)
    ) as pair:
        yield pair


@contextmanager
def stunnel(site: Site) -> Iterator[Pair]:
    """stunnel, which has a thread for every stream."""
    files = issue(site.folder)
    server = f"""
accept = 127.0.0.1:{site.between}
connect = 127.0.0.1:{site.target}
cert = {files.server}
requireCert = yes"""
    client = f"""
client = yes
accept = 127.0.0.1:{site.entrance}
connect = 127.0.0.1:{site.between}
cert = {files.client}
checkHost = {NAME}"""
    with sides(
        "stunnel",
        site,
        _stunnel_side(site, files, "server", server),
        _stunnel_side(site, files, "client", client),
    ) as pair:
        yield pair


@contextmanager
def sides(name: str, site: Site, server: list[str], client: list[str]) -> Iterator[Pair]:
    """Both processes, the server side first."""
    with ExitStack() as stack:
        server_pid = stack.enter_context(
            running(server, site.folder, lambda: listens(site.between), f"{name}-server")
        )
        client_pid = stack.enter_context(
            running(client, site.folder, lambda: listens(site.entrance), f"{name}-client")
        )
        yield Pair(name, site.entrance, client_pid, server_pid)


def _nginx_side(site: Site, side: str, server: str) -> list[str]:
    text = f"""
load_module {NGINX_STREAM};
daemon off;
master_process off;
worker_processes 1;
pid {site.folder}/{side}.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
stream {{
    access_log off;
    tcp_nodelay on;
    proxy_timeout 1h;
    proxy_ssl_verify_depth 2;
    server {{{server}
    }}
}}
"""
    return ["nginx", "-p", str(site.folder), "-e", "stderr", "-c", str(_write(site, f"{side}.conf", text))]


def _haproxy_side(site: Site, side: str, listen: str) -> list[str]:
    text = f"""
global
  nbthread 1
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen {side}{listen}
"""
    return ["haproxy", "-db", "-q", "-f", str(_write(site, f"{side}.cfg", text))]


def _stunnel_side(site: Site, files: Files, side: str, service: str) -> list[str]:
    text = f"""
foreground = yes
pid =
debug = warning
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[{side}]{service}
CAfile = {files.root}
verifyChain = yes
sslVersion = TLSv1.3
ciphersuites = {SUITE}
curves = {GROUP}
sessionResume = no
options = NO_TICKET
TIMEOUTidle = 3600
"""
    return ["stunnel4", str(_write(site, f"{side}.conf", text))]


def _write(site: Site, name: str, text: str) -> Path:
    path = site.folder / name
    path.write_text(text)
    os.chmod(path, 0o600)
    return path
