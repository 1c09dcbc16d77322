"""The credential that a tool's node adds to requests: read at each use, so that rotating it needs no restart.

The agent never holds it, and no log or record does.
"""

import re
from collections.abc import Callable

from pki.errors import LocalError
from pki.keys import load_private
from sidecar.policy.model import InjectHeader
from sidecar.proxy.dial import credential_path

_VALUE = re.compile(rb"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")


def credential_of(inject: InjectHeader | None) -> Callable[[], tuple[bytes, bytes]] | None:
    """What reads the field to add; None where nothing is. It raises LocalError for a file that is not usable."""
    if inject is None:
        return None

    def read() -> tuple[bytes, bytes]:
        path = credential_path(inject.credential)
        value = load_private(path).strip(b"\r\n")
        if _VALUE.fullmatch(value) is None:
            raise LocalError(f"{path}: a credential is one line of printable ASCII")
        return inject.name.encode(), inject.prefix.encode() + value

    return read
