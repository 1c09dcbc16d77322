import pytest
from OpenSSL import SSL

from pki.errors import LocalError
from pki.tls.openssl import PlainBuffer


@pytest.mark.parametrize(("at", "most"), [(0, 17), (16, 1), (-1, 1), (1, 16), (0, 0)])
def test_nothing_is_decrypted_beside_the_buffer(at: int, most: int) -> None:
    """OpenSSL writes where it is told to: a wrong place would be somebody else's memory."""
    connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
    with pytest.raises(LocalError, match="beyond its buffer"):
        PlainBuffer(16).read(connection, at, most)
