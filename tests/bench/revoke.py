"""Sign a revocation and hand it to a node, and say when: ``python -m tests.bench.revoke MEMBER OPERATOR SESSION``.

What `lockgate revoke` does, without the time that a command line takes to start and to wait for receipts.
"""

import base64
import sys
import time
from pathlib import Path

from pki.clock import HOUR
from pki.statement import Revocation, Target
from sidecar.control.client import call
from sidecar.operator import OperatorCredential


def main() -> None:
    member, operator, session = sys.argv[1:]
    credential = OperatorCredential.load(Path(operator))
    body = Revocation(target=Target(kind="session", value=session), message="bench")
    signed = time.time()
    envelope = base64.b64encode(credential.sign("revocation", body, HOUR).raw).decode()
    call(Path(member) / "run" / "admin.sock", "POST", "/v1/statements", {"envelope": envelope})
    sys.stdout.write(f"{signed}\n")


if __name__ == "__main__":
    main()
