"""The few OpenSSL calls that pyOpenSSL does not wrap: the one place that touches its private names."""

# ruff: noqa: SLF001 - these calls need the C objects that pyOpenSSL keeps in private attributes

from typing import cast

from OpenSSL import SSL
from OpenSSL._util import ffi, lib

from pki.errors import LocalError


def set_groups(context: SSL.Context, names: str) -> None:
    """Set the key exchange groups (the syntax of SSL_CTX_set1_groups_list); raises LocalError for an unknown one."""
    if lib.SSL_CTX_set1_curves_list(context._context, names.encode()) != 1:
        lib.ERR_clear_error()
        raise LocalError(f"TLS: this OpenSSL does not have the groups {names}")


def write_whole_buffers(context: SSL.Context) -> None:
    """Let one send encrypt all it is given, not only a first record of 16 KiB (pyOpenSSL's default)."""
    context.clear_mode(lib.SSL_MODE_ENABLE_PARTIAL_WRITE)


def was_resumed(connection: SSL.Connection) -> bool:
    """Whether the handshake took up an earlier session, which skips the certificates."""
    return bool(lib.SSL_session_reused(connection._ssl))


def verify_error(connection: SSL.Connection) -> str:
    """Why the peer's chain was not accepted, in OpenSSL's words; empty when nothing was found against it."""
    code = lib.SSL_get_verify_result(connection._ssl)
    if code == lib.X509_V_OK:
        return ""
    return cast(bytes, ffi.string(lib.X509_verify_cert_error_string(code))).decode()


class PlainBuffer:
    """Where OpenSSL puts what it decrypts. Used again and again: one copy out, and no fresh pages for each record."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._room = ffi.new("char[]", size)

    def read(self, connection: SSL.Connection, at: int, most: int) -> int:
        """Put at most ``most`` bytes of one record at ``at``; how many. Raises what ``connection.recv`` raises."""
        if not 0 <= at < at + most <= self.size:
            raise LocalError("TLS: a read beyond its buffer")
        count = cast(int, lib.SSL_read(connection._ssl, self._room + at, most))
        if count <= 0:
            connection._raise_ssl_error(connection._ssl, count)
        return count

    def first(self, count: int) -> bytes:
        """A copy of the first ``count`` bytes."""
        return cast(bytes, ffi.unpack(self._room, count))


def bytes_arrived(connection: SSL.Connection) -> int:
    """Encrypted bytes written to a memory-BIO connection that it has not looked at yet."""
    return cast(int, lib.BIO_get_mem_data(connection._into_ssl, ffi.NULL))


def bytes_leaving(connection: SSL.Connection) -> int:
    """Encrypted bytes a memory-BIO connection has ready for the wire."""
    return cast(int, lib.BIO_get_mem_data(connection._from_ssl, ffi.NULL))
