"""What `lockgate check` looks at, one line each: files, certificate, CA, daemon."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import trio

from pki.certificate import read
from pki.clock import SystemClock
from pki.errors import ConfigError, LocalError, LockgateError, UnreachableError
from pki.renewal import in_grace
from pki.verify import Identity, verify
from sidecar.cli.join import self_test
from sidecar.cli.settings import Settings
from sidecar.cli.values import clock_time, printable
from sidecar.config import NodeConfig
from sidecar.control.client import call
from sidecar.daemon import read_config
from sidecar.exits import Exit
from sidecar.identity import Credential, load_bundle
from sidecar.paths import Paths

CA_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was looked at. ``exit``: what it alone would make the command exit with."""

    what: str
    exit: Exit
    words: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.exit is Exit.YES else 'FAIL'}  {self.what:<12} {self.words}"


def self_check(settings: Settings) -> int:
    """Look at all of it, whatever fails. Exit code 3: nothing is wrong here, but somebody does not answer."""
    lines = list(_lines(settings.paths))
    body = {"checks": [asdict(line) for line in lines]}
    settings.emit(body, "\n".join(map(str, lines)))
    return next(
        (code for code in (Exit.NO, Exit.UNCONFIRMED) if code in {one.exit for one in lines}), Exit.YES
    )


def _lines(paths: Paths) -> Iterator[Line]:
    config: list[NodeConfig] = []

    def load_config() -> str:
        config.append(read_config(paths))
        return f"{paths.node_toml}: node {config[0].name} of {config[0].trust_domain}"

    yield _look("config", load_config)
    yield _look("certificate", lambda: _certificate(paths))
    yield _look("state", lambda: _state(paths))
    if config:
        yield _look("ca", lambda: _ca(paths, config[0]))
    yield _look("daemon", lambda: _daemon(paths))


def _look(what: str, look: Callable[[], str]) -> Line:
    try:
        return Line(what, Exit.YES, look())
    except ConfigError as error:
        return Line(what, Exit.NO, "; ".join(map(str, error.faults)))
    except UnreachableError as error:
        return Line(what, Exit.UNCONFIRMED, str(error))
    except LockgateError as error:
        return Line(what, Exit.NO, str(error))
    except OSError as error:
        return Line(what, Exit.NO, f"{error.filename}: {error.strerror}")


def _certificate(paths: Paths) -> str:
    """Judged as the daemon judges it at its start."""
    credential, now = Credential.load(paths.identity_dir), SystemClock().wall()
    found = verify(credential.chain, load_bundle(paths.identity_dir), now)
    if isinstance(found, Identity):
        return f"{found.id} until {clock_time(found.not_after)}"
    ended = read(credential.chain[0]).not_after
    if in_grace(ended, now):
        raise LocalError(f"expired at {clock_time(ended)}, renewed once the daemon reaches the CA")
    raise LocalError(f"{found}; join again with a new token: lockgate join")


def _state(paths: Paths) -> str:
    for path in (paths.statements, paths.audit_dir):
        if not path.exists():
            raise LocalError(f"{path}: it is gone; restore it from a copy, or join again in an empty folder")
    return f"statements and audit log in {paths.lib}"


def _ca(paths: Paths, config: NodeConfig) -> str:
    credential = Credential.load(paths.identity_dir)
    bundle = load_bundle(paths.identity_dir)

    async def ask() -> str:
        with trio.fail_after(CA_SECONDS):
            return await self_test(str(config.ca), bundle, credential.chain, credential.key)

    started = time.monotonic()
    try:
        you = trio.run(ask)
    except trio.TooSlowError:
        raise UnreachableError(f"CA {config.ca}: no answer within {CA_SECONDS:.0f} s") from None
    return f"{config.ca} knows {you}, answered in {(time.monotonic() - started) * 1_000:.0f} ms"


def _daemon(paths: Paths) -> str:
    status: dict[str, Any] = call(paths.admin_sock, "GET", "/v1/status")
    wrong = [status["unready"]] if status["unready"] else []
    if not status["policy"]["sequence"]:
        wrong.append("no policy: everything is refused")
    wrong += [f"binding {one['address']}: {one['problem']}" for one in status["bindings"] if one["problem"]]
    if not status["audit"]["available"]:
        wrong.append(f"audit log: {status['audit']['trouble']}")
    if wrong or not status["ready"]:
        raise LocalError(printable("; ".join(wrong) or "it has not heard from the CA: not fresh"))
    return f"ready; linked to {', '.join(status['peers']) or 'nobody'}"
