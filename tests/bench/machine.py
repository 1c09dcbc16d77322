"""What a measurement was taken on, and of what."""

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

from OpenSSL import SSL

from sidecar.version import VERSION
from tests.bench import peers, web


def facts(folder: Path) -> dict[str, str]:
    """One line for each thing that a reader wants to know before the numbers. ``folder`` is where records are written."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{_cpu()}, {os.cpu_count()} CPUs, {_memory()}",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "records on": _file_system(folder),
        "lockgate": f"{VERSION} on Python {platform.python_version()}, Trio {version('trio')}, "
        f"pyOpenSSL {version('pyopenssl')} with {SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode()}",
        **peers.versions(),
        **web.versions(),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def _file_system(folder: Path) -> str:
    words = ["stat", "--file-system", "--format=%T", str(folder)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
