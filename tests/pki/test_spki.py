import hashlib

from pki.spki import spki, spki_sha256
from tests.authority import new_key


def test_a_key_has_one_name_wherever_it_stands() -> None:
    """The name is SHA-256 over the SubjectPublicKeyInfo, so it differs by key and by nothing else."""
    key, other = new_key().public_key(), new_key().public_key()
    assert spki_sha256(key) == hashlib.sha256(spki(key)).digest()
    assert spki_sha256(key) != spki_sha256(other)
