"""The issuer that vouches for users: its keys, from a file or over HTTPS, and what its ID tokens say.

Keys are kept for KEYS_SECONDS, since an issuer changes them now and then, and asked for earlier when a token names one
that is not among them; but no more than once in RETRY_SECONDS, or whoever makes up key names would have us ask all day.
Where the issuer cannot be reached the keys that are held go on counting. Decoding and signatures take a thread.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
import structlog
import trio

from pki.authority.id_token import (
    MAX_JWKS_BYTES,
    Keys,
    OnBehalfOf,
    TokenRules,
    check_id_token,
    key_id,
    read_keys,
)
from pki.authority.refusal import Refusal, RefusalError
from pki.clock import SECOND, Boot, Clock
from pki.errors import LocalError, LockgateError, UnreachableError
from pki.http.client import HttpClient, Limits
from sidecar.address import Address
from sidecar.config import Oidc
from sidecar.policy.target import TlsTarget
from sidecar.proxy.dial import dial

KEYS_SECONDS = 600
RETRY_SECONDS = 10
FETCH_SECONDS = 5.0
HTTPS = "https://"
HTTPS_PORT = 443

T = TypeVar("T")

log = structlog.get_logger(__name__)


class IdTokens:
    """Checks ID tokens for the CA; ``oidc`` None: it takes none."""

    def __init__(self, oidc: Oidc | None, clock: Clock) -> None:
        self._oidc = oidc
        self._clock = clock
        self._keys: Keys = {}
        self._asked: Boot | None = None
        self._trouble = ""
        self._turn = trio.Lock()
        self._thread = trio.CapacityLimiter(1)

    async def check(self, token: str) -> OnBehalfOf:
        """On whose behalf whoever brings ``token`` acts.

        Raises RefusalError for the token, LocalError while the issuer's keys cannot be had.
        """
        oidc = self._oidc
        if oidc is None:
            raise RefusalError(Refusal.ID_TOKEN, "ID token: this CA trusts no issuer; see [oidc] in ca.toml")
        kid = await self._in_thread(key_id, token)
        async with self._turn:
            if self._is_due(kid):
                await self._refresh(oidc)
        if not self._keys:
            raise LocalError(f"{oidc.jwks}: {self._trouble}")
        rules = TokenRules(oidc.issuer, oidc.audience, oidc.claim, oidc.max_age)
        return await self._in_thread(check_id_token, token, self._keys, rules, self._clock.wall())

    def _is_due(self, kid: str) -> bool:
        if self._asked is None:
            return True
        is_held = bool(self._keys) and (not kid or kid in self._keys)
        wait = KEYS_SECONDS if is_held else RETRY_SECONDS
        return self._clock.boot() - self._asked >= wait * SECOND

    async def _refresh(self, oidc: Oidc) -> None:
        self._asked = self._clock.boot()
        try:
            data = await self._fetch(oidc)
            self._keys = await self._in_thread(read_keys, data)
        except LockgateError as error:
            self._trouble = str(error)
            log.error("the keys of the issuer of ID tokens cannot be had", why=self._trouble)

    async def _fetch(self, oidc: Oidc) -> bytes:
        if not oidc.jwks.startswith(HTTPS):
            return await self._in_thread(_read, Path(oidc.jwks))
        try:
            with trio.fail_after(FETCH_SECONDS):
                return await _get(oidc)
        except trio.TooSlowError:
            raise UnreachableError(f"no answer within {FETCH_SECONDS:.0f} s") from None

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(partial(work, *args), limiter=self._thread)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_JWKS_BYTES + 1)
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror}") from None


async def _get(oidc: Oidc) -> bytes:
    """One GET, to the host that stands in the URL and proves to be it by the configured CA; nothing is followed."""
    url = urlsplit(oidc.jwks)
    host = url.hostname or ""
    target = TlsTarget(Address(host, url.port or HTTPS_PORT), str(oidc.ca), host)
    limits = Limits(body_bytes=MAX_JWKS_BYTES, answer_seconds=FETCH_SECONDS)
    async with HttpClient(await dial(target), name=host, limits=limits) as client:
        query = f"?{url.query}" if url.query else ""
        answer = await client.request("GET", f"{url.path or '/'}{query}", headers={"host": url.netloc})
    return msgspec.json.encode(answer.json)
