"""ID tokens (OpenID Connect Core 1.0, section 3.1.3.7): on whose behalf a session runs, by an issuer's word. Pure.

Rules:

1. Which algorithms count is said here, never by the token: no ``none``, and no HMAC, for which a public key would do.
2. The key is one of the issuer's, found by ``kid``; without one, the only one that there is. What a token says of keys (``jwk``, ``jku``, ``x5c``) is not read.
3. ``iss`` and ``aud`` are compared whole. Among several audiences the token must be made for ours (``azp``).
4. It is fresh: not expired, and issued no longer ago than ``max_age``, whatever it says of its own end.
5. It works once. A spent one is known by the digest of what was signed, since one ECDSA signature has two spellings.

Every refusal is a :class:`RefusalError` with reason ``id_token``, and its message names the rule. It never repeats what
the token says: a stranger wrote it.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, Literal

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey

from pki.authority.refusal import Refusal, RefusalError
from pki.certificate import is_user
from pki.clock import SECOND, Wall
from pki.errors import RemoteError

ALGORITHMS = ("ES256", "RS256", "PS256", "EdDSA")
MAX_TOKEN_CHARS = 16_384
MAX_JWKS_BYTES = 256 * 1024
MAX_KEYS = 100
MIN_RSA_BITS = 2_048
SKEW = 60 * SECOND

Key = ECKey | OKPKey | RSAKey
Keys = Mapping[str, Key]
"""An issuer's signing keys by ``kid``."""

_KINDS: dict[str, type[ECKey] | type[OKPKey] | type[RSAKey]] = {"EC": ECKey, "OKP": OKPKey, "RSA": RSAKey}

_NumericDate = Annotated[float, msgspec.Meta(ge=0, le=2**36)]
_UNREADABLE = (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Whose tokens count. ``max_age`` in microseconds; ``claim`` is the one that names the user."""

    issuer: str
    audience: str
    claim: Literal["sub", "email"]
    max_age: int


@dataclass(frozen=True, slots=True)
class OnBehalfOf:
    """A verified user, and the token that said so: its digest, and when it ends."""

    user: str
    digest: bytes
    expires: Wall


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


class _Claims(msgspec.Struct):
    iss: str
    sub: str
    aud: str | list[str]
    exp: _NumericDate
    iat: _NumericDate
    nbf: _NumericDate = 0
    azp: str = ""
    email: str = ""
    email_verified: bool = False


def read_keys(data: bytes) -> Keys:
    """The signing keys of a JWK set (RFC 7517); those of other kinds are left out. Raises RemoteError."""
    if len(data) > MAX_JWKS_BYTES:
        raise RemoteError(f"JWK set: {len(data)} bytes, at most {MAX_JWKS_BYTES} are allowed")
    try:
        entries = msgspec.json.decode(data, type=_Set).keys
    except (msgspec.DecodeError, RecursionError):
        raise RemoteError("JWK set: not readable") from None
    found = map(_read_key, entries[:MAX_KEYS])
    keys = {key.kid: key for key in found if key is not None and key.kid}
    if not keys:
        raise RemoteError("JWK set: no key in it that signs, has a kid, and is long enough")
    return keys


def key_id(token: str) -> str:
    """The ``kid`` that a token names, empty for none; raises RefusalError for what is no token."""
    return _opened(token)[1]


def check_id_token(token: str, keys: Keys, rules: TokenRules, now: Wall) -> OnBehalfOf:
    """On whose behalf the holder of ``token`` acts; raises RefusalError."""
    signed, kid = _opened(token)
    # Whose issuer has one key need not name it (OpenID Connect Core 1.0, section 10.1).
    key = keys.get(kid) if kid else next(iter(keys.values())) if len(keys) == 1 else None
    if key is None:
        raise _refused("its kid names no key of the issuer; log in again")
    if not _is_signed(signed, key):
        raise _refused("not signed by the issuer")
    try:
        claims = msgspec.json.decode(signed.payload, type=_Claims)
    except (msgspec.DecodeError, RecursionError):
        raise _refused("it lacks iss, sub, aud, exp or iat, or they are not of their kinds") from None
    _check_claims(claims, rules, now)
    digest = sha256(token.rpartition(".")[0].encode()).digest()
    return OnBehalfOf(_user(claims, rules), digest, _wall(claims.exp))


def _opened(token: str) -> tuple[jws.CompactSignature, str]:
    """What the token holds, nothing of it believed, and its kid."""
    if not 0 < len(token) <= MAX_TOKEN_CHARS or not token.isascii():
        raise _refused(f"not one of 1 to {MAX_TOKEN_CHARS} ASCII characters")
    try:
        signed = jws.extract_compact(token.encode())
        header = signed.headers()
    except _UNREADABLE:
        raise _refused("not a JSON Web Token") from None
    if header.get("alg") not in ALGORITHMS:
        raise _refused(f"its algorithm is none of {', '.join(ALGORITHMS)}")
    return signed, str(header.get("kid", ""))


def _check_claims(claims: _Claims, rules: TokenRules, now: Wall) -> None:
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    if claims.iss != rules.issuer:
        raise _refused("of another issuer")
    if rules.audience not in audiences or (len(audiences) > 1 and claims.azp != rules.audience):
        raise _refused("made for another audience")
    if _wall(claims.exp) + SKEW <= now:
        raise _refused("expired; log in again")
    if max(_wall(claims.iat), _wall(claims.nbf)) > now + SKEW:
        raise _refused("of the future; check the clocks")
    if _wall(claims.iat) + rules.max_age + SKEW <= now:
        raise _refused("issued too long ago; log in again")


def _user(claims: _Claims, rules: TokenRules) -> str:
    if rules.claim == "email" and not claims.email_verified:
        raise _refused("its email is not verified")
    user = claims.email if rules.claim == "email" else claims.sub
    if not is_user(user):
        raise _refused(f"its {rules.claim} is no name that a certificate can hold")
    return user


def _read_key(entry: dict[str, Any]) -> Key | None:
    """A public key that signs; None for any other, which is nobody's fault."""
    kind = _KINDS.get(str(entry.get("kty")))
    if kind is None or entry.get("use", "sig") != "sig":
        return None
    try:
        with warnings.catch_warnings(
            action="ignore", category=SecurityWarning
        ):  # Of keys that are refused here.
            key = kind.import_key(entry)
            is_short = isinstance(key, RSAKey) and key.public_key.key_size < MIN_RSA_BITS
    except (*_UNREADABLE, UnsupportedAlgorithm):
        return None
    return None if is_short else key


def _is_signed(signed: jws.CompactSignature, key: Key) -> bool:
    try:
        # It would rather have Ed25519 than EdDSA (RFC 9864); issuers say EdDSA.
        with warnings.catch_warnings(action="ignore", category=SecurityWarning):
            return jws.validate_compact(signed, key, ALGORITHMS)
    except _UNREADABLE:
        return False


def _wall(seconds: float) -> Wall:
    return Wall(int(seconds * SECOND))


def _refused(why: str) -> RefusalError:
    return RefusalError(Refusal.ID_TOKEN, f"ID token: {why}")
