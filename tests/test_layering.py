"""Who may import whom, read from the sources without running them.

Every import counts wherever it stands: in a function, under `if TYPE_CHECKING`, in a `try`. To import `a.b.c` is to
run `a` and `a.b` too, so a module also reaches what its packages import.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A package stands for every module in it.
PURE_CORES = (
    "pki.authority.entries",
    "pki.authority.export",
    "pki.authority.rollover",
    "pki.bundle",
    "pki.certificate",
    "pki.chain",
    "pki.codec",
    "pki.errors",
    "pki.framing",
    "pki.ids",
    "pki.judge",
    "pki.profile",
    "pki.renewal",
    "pki.spiffe",
    "pki.spki",
    "pki.statement",
    "pki.svid",
    "pki.token",
    "pki.verify",
    "sidecar.address",
    "sidecar.assemble",
    "sidecar.audit.chain",
    "sidecar.audit.checkpoint",
    "sidecar.audit.folding",
    "sidecar.audit.names",
    "sidecar.audit.ocsf",
    "sidecar.audit.proven",
    "sidecar.audit.record",
    "sidecar.audit.redecide",
    "sidecar.audit.report",
    "sidecar.audit.schema",
    "sidecar.audit.trace",
    "sidecar.audit.warehouse",
    "sidecar.bypass",
    "sidecar.confinement",
    "sidecar.defaults",
    "sidecar.duration",
    "sidecar.exits",
    "sidecar.ca.invalidation",
    "sidecar.gossip.digest",
    "sidecar.gossip.dump",
    "sidecar.gossip.editions",
    "sidecar.gossip.flood",
    "sidecar.gossip.freshness",
    "sidecar.gossip.intake",
    "sidecar.gossip.quota",
    "sidecar.gossip.rate",
    "sidecar.gossip.standing",
    "sidecar.gossip.store",
    "sidecar.gossip.texts",
    "sidecar.gossip.topology",
    "sidecar.gossip.versions",
    "sidecar.http.headers",
    "sidecar.http.lexical",
    "sidecar.http.messages",
    "sidecar.http.normal",
    "sidecar.http.plain",
    "sidecar.http.refusal",
    "sidecar.http.seams",
    "sidecar.manifest",
    "sidecar.invalidation.watch",
    "sidecar.packed",
    "sidecar.telemetry.spans",
    "sidecar.mcp.answers",
    "sidecar.mcp.events",
    "sidecar.mcp.headers",
    "sidecar.mcp.json",
    "sidecar.mcp.message",
    "sidecar.mcp.methods",
    "sidecar.objectives",
    "sidecar.observed",
    "sidecar.http.held",
    "sidecar.mcp.owners",
    "sidecar.mcp.pins",
    "sidecar.mcp.refusal",
    "sidecar.policy",
    "sidecar.policy.target",
    "sidecar.proxy.attribute",
    "sidecar.proxy.local_certificate",
    "sidecar.proxy.proof",
    "sidecar.proxy.quotas",
    "sidecar.proxy.rooms",
    "sidecar.proxy.ruling",
    "sidecar.proxy.streams",
    "sidecar.reasons",
    "sidecar.session.narrowing",
    "sidecar.session.refusals",
    "sidecar.session.ends",
    "sidecar.session.starts",
    "sidecar.snapshot",
    "sidecar.toml",
    "sidecar.toml_blocks",
    "sidecar.toml_lines",
    "sidecar.wire",
)

# Who composes signing code with the rest, each in a process of its own beside the node's daemon.
SIGNERS = ("sidecar.ca", "sidecar.cli", "sidecar.dev")

# What a core must not know, by what it would bring in.
IMPURE_IMPORTS = {
    "clock": ("time", "pki.clock.SystemClock"),
    "files": ("glob", "pathlib", "shutil", "sqlite3", "tempfile"),
    "logging": ("logging", "structlog"),
    "network": (
        "OpenSSL",
        "http.client",
        "http.server",
        "select",
        "selectors",
        "socket",
        "socketserver",
        "ssl",
        "urllib",
    ),
    "process": ("ctypes", "multiprocessing", "os", "signal", "subprocess", "sys"),
    "randomness": ("random", "secrets", "uuid"),
    "tasks": ("asyncio", "concurrent", "contextvars", "threading", "trio"),
}

# The same without an import of its own.
IMPURE_CALLS = {
    "date.today",
    "datetime.now",
    "datetime.today",
    "datetime.utcnow",
    "ec.generate_private_key",
    "ed25519.Ed25519PrivateKey.generate",
    "input",
    "open",
    "print",
    "x509.random_serial_number",
}

# Each costs more to import than all that `lockgate status` needs.
HEAVY = {"OpenSSL", "cryptography", "h11", "msgspec", "pydantic", "starlette", "structlog", "tomli", "trio"}

# Cores take the two kinds of time from here; the one name in it that reads a clock is an impure import above.
NOT_FOLLOWED = {"pki.clock"}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import trio", {"trio"}),
        ("import os.path as p, re", {"os.path", "re"}),
        ("from trio import Path", {"trio", "trio.Path"}),
        ("from pki import clock", {"pki", "pki.clock"}),
        ("def f():\n    import trio", {"trio"}),
        ("if TYPE_CHECKING:\n    import trio", {"trio"}),
        ("try:\n    import trio\nexcept ImportError:\n    pass", {"trio"}),
    ],
)
def test_an_import_counts_in_every_form_and_place(source: str, names: set[str]) -> None:
    """The walker sees what the interpreter could load."""
    assert names_imported(source) == names


def test_identity_never_imports_the_sidecar() -> None:
    """To be someone, and to check who someone is, takes no policy and no proxy."""
    assert {m: names for m in modules_of("pki") if (names := imports_below(m, "sidecar"))} == {}


def test_only_the_ca_daemon_the_cli_and_the_demo_import_the_authority() -> None:
    """Signing code is walled off: whoever may load it is named here."""
    outside = [m for m in modules() if not is_below(m, "pki.authority", *SIGNERS)]
    assert {m: names for m in outside if (names := imports_below(m, "pki.authority"))} == {}


def test_the_daemon_never_reaches_the_authority() -> None:
    """A node that is broken into holds no code that could sign for the CA."""
    assert [m for m in reach("sidecar.daemon") if is_below(m, "pki.authority", *SIGNERS)] == []


def test_nothing_imports_the_second_tls_stack() -> None:
    """The stdlib's ssl is another OpenSSL than pyOpenSSL's, with other settings and other bugs."""
    assert {m: names for m in modules() if (names := imports_below(m, "ssl"))} == {}


def test_every_module_named_here_exists() -> None:
    """A renamed module does not slip out of its rule."""
    assert [
        name for name in (*PURE_CORES, *SIGNERS, "pki.authority", "sidecar.daemon") if not modules_of(name)
    ] == []


@pytest.mark.parametrize("core", PURE_CORES)
def test_a_core_is_pure(core: str) -> None:
    """It and all it reaches know no socket, file, clock, randomness, logging or task."""
    banned = [name for names in IMPURE_IMPORTS.values() for name in names]
    reached = {reached for module in modules_of(core) for reached in reach(module)}
    assert {m: names for m in sorted(reached) if (names := imports_below(m, *banned))} == {}
    called = {m: names_called(modules()[m].read_text()) & IMPURE_CALLS for m in modules_of(core)}
    assert {m: names for m, names in called.items() if names} == {}


def test_status_starts_without_the_heavy_libraries(tmp_path: Path) -> None:
    """They cost more than the 150 ms that `lockgate status` may take before it asks the daemon."""
    script = (
        "import contextlib, sys\n"
        "from sidecar.cli import main\n"
        "sys.argv = ['lockgate', '--dir', sys.argv[1], 'status']\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main()\n"
        f"print(*sorted({HEAVY} & sys.modules.keys()), sep=',')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == ""


@cache
def modules() -> dict[str, Path]:
    """Every module of the two packages, by dotted name."""
    paths = [path for package in ("pki", "sidecar") for path in (ROOT / package).rglob("*.py")]
    return {dotted_name(path): path for path in paths}


def dotted_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_of(package: str) -> list[str]:
    return [module for module in modules() if is_below(module, package)]


def is_below(name: str, *roots: str) -> bool:
    """Whether a dotted name is one of the roots, or inside one."""
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def imports_below(module: str, *roots: str) -> list[str]:
    return sorted(name for name in imports(module) if is_below(name, *roots))


@cache
def imports(module: str) -> frozenset[str]:
    return frozenset(names_imported(modules()[module].read_text()))


def names_imported(source: str) -> set[str]:
    """What a source imports; `from a import b` gives both `a` and `a.b`, since b may be a module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "relative imports are banned"
            names.update({node.module}, (f"{node.module}.{alias.name}" for alias in node.names))
    return names


def names_called(source: str) -> set[str]:
    """The dotted names a source calls, as they are spelled there."""
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}


def reach(start: str) -> set[str]:
    """The project's modules that importing ``start`` can load, itself included; empty if there is no such module."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        module = todo.pop()
        if module in seen or module in NOT_FOLLOWED or module not in modules():
            continue
        seen.add(module)
        todo.extend(packages_of(module))
        todo.extend(imports(module))
    return seen


def packages_of(module: str) -> Iterator[str]:
    """`a.b` and `a` for `a.b.c`."""
    while module := module.rpartition(".")[0]:
        yield module
