import base64
import hmac
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwk, jws, jwt
from joserfc.registry import HeaderParameter

from pki.authority.id_token import (
    ALGORITHMS,
    MAX_JWKS_BYTES,
    MAX_TOKEN_CHARS,
    SKEW,
    TokenRules,
    check_id_token,
    key_id,
    read_keys,
)
from pki.authority.refusal import Refusal, RefusalError
from pki.clock import HOUR, SECOND, Wall
from pki.errors import RemoteError
from tests.authority import NOW

RULES = TokenRules("https://login.example.org", "lockgate", "sub", HOUR)
BY_EMAIL = TokenRules(RULES.issuer, RULES.audience, "email", HOUR)
EC = jwk.ECKey.generate_key("P-256", {"kid": "ec"})
RSA = jwk.RSAKey.generate_key(2048, {"kid": "rsa"})
ED = jwk.OKPKey.generate_key("Ed25519", {"kid": "ed"})
OTHER = jwk.ECKey.generate_key("P-256", {"kid": "ec"})
SHORT_RSA = {"kty": "RSA", "kid": "short", "e": "AQAB", "n": "x" * 171}  # 1,024 bits
SIGNERS: dict[str, Any] = {"ES256": EC, "RS256": RSA, "PS256": RSA, "EdDSA": ED}
SECONDS = NOW // SECOND


def jwks(*keys: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


KEYS = read_keys(jwks(*(key.as_dict(private=False) for key in (EC, RSA, ED))))


def token(
    alg: str = "ES256", key: Any = None, header: Mapping[str, Any] | None = None, **changes: Any
) -> str:
    """A good token but for ``changes``; a value of ``...`` leaves a claim out."""
    claims = {
        "iss": RULES.issuer,
        "sub": "alice",
        "aud": RULES.audience,
        "iat": SECONDS,
        "exp": SECONDS + 600,
        **changes,
    }
    signer = key or SIGNERS[alg]
    kept = {name: value for name, value in claims.items() if value is not ...}
    return jwt.encode({"alg": alg, "kid": signer.kid, **(header or {})}, kept, signer, algorithms=[alg])


def refusal(text: str, rules: TokenRules = RULES, now: int = NOW) -> str:
    with pytest.raises(RefusalError) as caught:
        check_id_token(text, KEYS, rules, Wall(now))
    assert caught.value.reason is Refusal.ID_TOKEN
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # by the library as it signs; issuers say EdDSA
@pytest.mark.parametrize("alg", ALGORITHMS)
def test_each_algorithm_that_counts_is_taken(alg: str) -> None:
    """With the user, and the end up to which the token is remembered."""
    found = check_id_token(token(alg), KEYS, RULES, NOW)
    assert (found.user, found.expires) == ("alice", NOW + 600 * SECOND)


def headed(header: Mapping[str, Any], signature: Callable[[bytes], bytes]) -> str:
    """A token's claims under a header that no library would write."""
    head = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
    signed = f"{head}.{token().split('.')[1]}"
    return f"{signed}.{base64.urlsafe_b64encode(signature(signed.encode())).decode().rstrip('=')}"


def hs256_with_the_public_key() -> str:
    """Whoever lets the token choose takes the issuer's public key for a shared secret."""
    secret = EC.as_pem(private=False)
    return headed({"alg": "HS256", "kid": "ec"}, lambda data: hmac.digest(secret, data, "sha256"))


def by_its_own_key() -> str:
    """Which it brings along."""
    return token(key=OTHER, header={"jwk": OTHER.as_dict(private=False)})


REFUSED = {
    "alg none": (headed({"alg": "none", "kid": "ec"}, lambda _: b""), "algorithm is none of"),
    "no alg": (headed({"kid": "ec"}, lambda _: b"x"), "not a JSON Web Token"),
    "alg as a list": (headed({"alg": ["ES256"], "kid": "ec"}, lambda _: b"x"), "algorithm is none of"),
    "HS256 with the public key": (hs256_with_the_public_key(), "algorithm is none of"),
    "another's key": (token(key=OTHER), "not signed by the issuer"),
    "a key that it brings along": (by_its_own_key(), "not signed by the issuer"),
    "key of another kind": (token("RS256", header={"kid": "ec"}), "not signed by the issuer"),
    "unknown kid": (token(header={"kid": "nobody"}), "kid names no key"),
    "no kid among several keys": (token(header={"kid": ""}), "kid names no key"),
    "cut off": (token()[:-4], "not signed by the issuer"),
    "two parts": (".".join(token().split(".")[:2]), "not a JSON Web Token"),
    "empty": ("", "not one of 1 to"),
    "too long": ("x" * (MAX_TOKEN_CHARS + 1), "not one of 1 to"),
    "not ASCII": ("é", "not one of 1 to"),
    "another issuer": (token(iss="https://login.example.org/"), "of another issuer"),
    "another audience": (token(aud="wiki"), "another audience"),
    "made for another of two": (token(aud=["lockgate", "wiki"], azp="wiki"), "another audience"),
    "for two, made for none": (token(aud=["lockgate", "wiki"]), "another audience"),
    "no audience": (token(aud=[]), "another audience"),
    "expired": (token(exp=SECONDS - 61), "expired"),
    "issued in the future": (token(iat=SECONDS + 61), "of the future"),
    "not yet": (token(nbf=SECONDS + 61), "of the future"),
    "old, whatever its end": (token(iat=SECONDS - 3_661, exp=SECONDS + 9_999), "too long ago"),
    "no exp": (token(exp=...), "lacks"),
    "no sub": (token(sub=...), "lacks"),
    "exp as text": (token(exp=str(SECONDS + 600)), "lacks"),
    "exp beyond all time": (token(exp=2**60), "lacks"),
    "sub of control characters": (token(sub="alice\nroot"), "no name"),
    "empty sub": (token(sub=""), "no name"),
    "endless sub": (token(sub="a" * 256), "no name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_token_that_proves_nobody_is_refused_by_name(case: str) -> None:
    """Each with the rule it breaks, and nothing of what it says."""
    text, why = REFUSED[case]
    said = refusal(text)
    assert why in said
    assert "alice" not in said


def test_a_header_that_must_be_understood_and_is_not_refuses_the_token() -> None:
    """It asks for a rule that we would not keep (RFC 7515 4.1.11)."""
    known = HeaderParameter("a rule of its own", "int")
    registry = jws.JWSRegistry(header_registry={"rule": known}, algorithms=["ES256"])
    head = {"alg": "ES256", "kid": "ec", "crit": ["rule"], "rule": 1}
    text = jws.serialize_compact(head, b"{}", EC, registry=registry)
    assert "not signed by the issuer" in refusal(text)


@pytest.mark.parametrize(
    ("claims", "user"),
    [
        ({"email": "a@example.org", "email_verified": True}, "a@example.org"),
        ({"email": "a@example.org"}, ""),
        ({"email": "a@example.org", "email_verified": False}, ""),
        ({"email_verified": True}, ""),
    ],
    ids=["verified", "unsaid", "unverified", "no-email"],
)
def test_an_email_counts_once_the_issuer_has_verified_it(claims: dict[str, Any], user: str) -> None:
    """Else whoever signs up under somebody else's address would be that person."""
    text = token(**claims)
    if user:
        assert check_id_token(text, KEYS, BY_EMAIL, NOW).user == user
    else:
        assert refusal(text, BY_EMAIL)


def test_the_digest_of_a_token_is_of_what_was_signed() -> None:
    """One ECDSA signature has two spellings: the other one must not make the token a new one."""
    head, payload, _ = token().split(".")
    again = token()
    assert again.startswith(f"{head}.{payload}.")
    first = check_id_token(again, KEYS, RULES, NOW)
    assert first.digest == check_id_token(token(), KEYS, RULES, NOW).digest
    assert first.digest != check_id_token(token(sub="bob"), KEYS, RULES, NOW).digest


def test_an_issuer_with_one_key_need_not_name_it() -> None:
    """OpenID Connect Core 1.0, section 10.1."""
    only = read_keys(jwks(EC.as_dict(private=False)))
    assert check_id_token(token(header={"kid": ""}), only, RULES, NOW).user == "alice"


def test_the_skew_is_granted_both_ways() -> None:
    """Clocks are never quite the same."""
    assert check_id_token(token(exp=SECONDS), KEYS, RULES, Wall(NOW + SKEW - 1)).user == "alice"
    assert "expired" in refusal(token(exp=SECONDS), now=NOW + SKEW)


def test_of_a_key_set_only_public_keys_that_sign_count() -> None:
    """No secret that two share, none for encryption, none without a name, none that is too short."""
    shared = {"kty": "oct", "kid": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}
    sealing = {**EC.as_dict(private=False), "kid": "enc", "use": "enc"}
    nameless = {name: value for name, value in EC.as_dict(private=False).items() if name != "kid"}
    found = read_keys(jwks(shared, sealing, nameless, SHORT_RSA, ED.as_dict(private=False)))
    assert "ed" in found
    assert not {"oct", "enc", "short"} & found.keys()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": 1}',
        b'{"keys": [1]}',
        jwks(),
        jwks({"kty": "EC", "kid": "x"}),
        jwks({"kty": "oct"}),
    ],
)
def test_a_set_without_a_key_is_no_set(data: bytes) -> None:
    """An answer that is a page of words must not empty what is held."""
    with pytest.raises(RemoteError, match="JWK set"):
        read_keys(data)


def test_a_set_that_is_too_large_is_not_read() -> None:
    """Before it is parsed."""
    with pytest.raises(RemoteError, match="at most"):
        read_keys(b" " * (MAX_JWKS_BYTES + 1))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_key_set_or_not(data: bytes) -> None:
    """And never anything else."""
    with suppress(RemoteError):
        read_keys(data)


@given(
    st.text(max_size=200)
    | st.builds(".".join, st.lists(st.text("eyJhbGciOi.JFUzI1_-", max_size=40), max_size=5))
)
def test_any_text_is_a_token_or_not(text: str) -> None:
    """Whatever comes, it is refused in words."""
    for look in (key_id, lambda one: check_id_token(one, KEYS, RULES, NOW)):
        with pytest.raises(RefusalError, match="ID token"):
            look(text)
