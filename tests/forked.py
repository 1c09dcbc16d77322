"""The command line in a forked child: what a shell would see of it, less the start-up of Python.

For tables of many short commands. One that is to be seen from its very start is run by `tests.mesh.lockgate`.
"""

import gc
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping
from typing import IO, NoReturn

from sidecar.cli import main
from tests.mesh import Done


def lockgate(*words: str, given: str = "", environment: Mapping[str, str] | None = None) -> Done:
    """Run the command line to its end, in a session without a terminal."""
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        source.write(given.encode())
        source.seek(0)
        gc.freeze()  # What is garbage here must not be collected, and complained of, over there.
        child = os.fork()
        if child == 0:
            _become(words, (source, out, err), {**os.environ, **(environment or {})})
        gc.unfreeze()
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return Done(os.waitstatus_to_exitcode(status), *texts)


def _become(words: tuple[str, ...], files: tuple[IO[bytes], ...], environment: dict[str, str]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        for descriptor, file in enumerate(files):
            os.dup2(file.fileno(), descriptor)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(*each) for each in enumerate(("r", "w", "w")))
        os.environ.clear()
        os.environ.update(environment)
        main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - what a shell would show of it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
