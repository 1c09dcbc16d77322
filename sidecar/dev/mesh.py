"""Make and run a dev mesh: the same commands that an admin would type, and the processes that they lead to."""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tomli

from pki.errors import LocalError, LockgateError
from sidecar.control.client import call
from sidecar.dev.layout import AGENT, AGENTS, OPERATORS, TOOLS, TRUST_DOMAIN, Layout, lockgate, sample_policy

READY_SECONDS = 60.0
POLL_SECONDS = 0.02
STOP_SECONDS = 6.0
PR_SET_PDEATHSIG = 1
MODULES = {"wiki": "wiki", "echo": "echo", "vault": "wiki", "tickets": "mcp_tool"}


@dataclass
class Mesh:
    """The processes of a dev mesh."""

    layout: Layout
    say: Callable[[str], None]
    lifetime: str = ""
    """Of the certificates of nodes and sessions, as ca.toml spells it; empty for the usual ones."""
    children: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    session: str = ""
    began: int = field(default_factory=lambda: time.time_ns() // 1_000)
    """Wall time, us."""

    def start(self, policy: Path | None) -> None:
        """Bring everything up; returns when all of it serves. Raises LocalError when a part does not."""
        if policy is not None:
            self._check_policy(policy)
        self._start_tools()
        self._start_ca()
        self._join_operators()
        for name in self.layout.nodes:
            self._join_node(name)
            self.spawn(name, lockgate("--dir", str(self.layout.member(name)), "run"))
        for name in self.layout.nodes:
            self._await_answer(name)
        self._apply_policy(policy)
        for name in self.layout.nodes:
            self._await(partial(self._is_ready, name), f"{name} to be ready")
        self.session = self._start_session()
        for name, port in self.layout.ports.tools.items():
            self._await(partial(_listens, port), f"the {name} tool to listen")
        self._write_env()

    def stop(self) -> None:
        """End all children, without drain, and reap them. Those that were killed left their sockets."""
        for child in self.children.values():
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        for child in self.children.values():
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for left in self.layout.root.glob("*/run/*.sock"):
            left.unlink(missing_ok=True)

    def spawn(self, name: str, command: list[str]) -> None:
        """Start a child; its output goes to its log. It ends when we are killed."""
        parent = os.getpid()

        def die_with_parent() -> None:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        with self.layout.log(name).open("ab") as log:
            self.children[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - single-threaded here
            )

    def status(self, name: str) -> dict[str, Any]:
        """The status of the CA or a node; empty while it does not answer."""
        with suppress(LockgateError):
            return call(self.layout.member(name) / "run" / "admin.sock", "GET", "/v1/status")
        return {}

    def run(self, *arguments: str) -> dict[str, Any]:
        """Run a lockgate command with --json; its answer. Raises LocalError with its words when it fails."""
        answer = self.run_any(*arguments)
        if "error" in answer:
            raise LocalError(f"lockgate {' '.join(arguments)}: {answer['error']['message']}")
        return answer

    def run_any(self, *arguments: str) -> dict[str, Any]:
        """The same, but a refusal is an answer too, with ``error`` in it."""
        done = subprocess.run(lockgate(*arguments, "--json"), capture_output=True, check=False)
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise LocalError(f"lockgate {' '.join(arguments)}: {done.stderr.decode().strip()}") from None
        return answer

    def _start_tools(self) -> None:
        for name, port in self.layout.ports.tools.items():
            module = MODULES[name]
            self.spawn(name, [sys.executable, "-m", f"sidecar.dev.{module}", str(port)])

    def _start_ca(self) -> None:
        folder = self.layout.member("ca")
        ports = self.layout.ports
        if not (folder / "lib" / "authority").exists():  # the last thing that `ca init` makes
            self.say(
                "making a CA; its root and the operators have no passphrase, as this is for trying out only"
            )
            listen = f"127.0.0.1:{ports.ca}"
            control = f"127.0.0.1:{ports.ca_control}"
            self.run(
                *("--dir", str(folder), "ca", "init", "--trust-domain", TRUST_DOMAIN, "--no-passphrase"),
                *("--listen", listen, "--control-listen", control),
            )
        lifetimes = (
            f'\n[lifetimes]\nnode = "{self.lifetime}"\nsession = "{self.lifetime}"\n' if self.lifetime else ""
        )
        self._declare_dev(folder / "etc" / "ca.toml", lifetimes)
        self.spawn("ca", lockgate("--dir", str(folder), "ca", "serve"))
        self._await_answer("ca")

    def _join_operators(self) -> None:
        for name, roles in OPERATORS.items():
            folder = self.layout.operator(name)
            if (folder / "chain.pem").exists():
                continue
            options = [word for role in roles for word in ("--role", role)]
            self._join(f"operator:{name}", options, ("--operator", str(folder), "join", "--no-passphrase"))

    def _join_node(self, name: str) -> None:
        folder = self.layout.member(name)
        if not (folder / "lib" / "identity" / "chain.pem").exists():
            listen = f"127.0.0.1:{self.layout.ports.nodes[name]}"
            self._join(f"node:{name}", [], ("--dir", str(folder), "join", "--listen", listen))
            self.say(f"node {name} joined")
        self._declare_dev(folder / "etc" / "node.toml")

    def _declare_dev(self, config: Path, more: str = "") -> None:
        """Also where an earlier start was broken off just before."""
        if "\ndev = true\n" not in config.read_text():
            with config.open("a") as file:
                file.write(f'\ndev = true\noperator = "{self.layout.operator("alice")}"\n{more}')

    def _join(self, member: str, options: list[str], join: tuple[str, ...]) -> None:
        ca = str(self.layout.member("ca"))
        file = self.layout.root / f"token-{member.replace(':', '-')}"
        self.run("--dir", ca, "token", "create", member, *options, "--out", str(file))
        try:
            self.run(*join, "--token-file", str(file))
        finally:
            file.unlink(missing_ok=True)

    def _check_policy(self, policy: Path) -> None:
        """A bad policy ends it before anything is made."""
        verdict = self.run("policy", "check", str(policy))
        if not verdict["good"]:
            faults = [
                f"{one['where']} {one['what']}" for one in verdict["findings"] if one["severity"] == "error"
            ]
            raise LocalError("\n".join(faults))

    def _apply_policy(self, policy: Path | None) -> None:
        if policy is not None:
            self.layout.policy.write_bytes(policy.read_bytes())
        elif not self.layout.policy.exists():
            self.layout.policy.write_text(sample_policy(self.layout))
        elif self.status(AGENTS)["policy"]["sequence"]:
            return  # An existing mesh has its policy in force already.
        alice = str(self.layout.operator("alice"))
        answer = self.run(
            *("--dir", str(self.layout.member(AGENTS)), "--operator", alice, "policy", "apply"),
            *(str(self.layout.policy), "--yes", "--wait", "20s"),
        )
        late = [name for name, one in answer["nodes"].items() if one["state"] != "confirmed"]
        if late:
            raise LocalError(f"policy: not in force on {', '.join(late)}; see {self.layout.root / 'logs'}")

    def _start_session(self) -> str:
        policy = tomli.loads(self.layout.policy.read_text())
        if AGENT not in policy.get("agents", {}):
            self.say(f"no session: this policy has no agent {AGENT}")
            return ""
        folder = str(self.layout.member(AGENTS))
        return str(self.run("--dir", folder, "session", "start", "--agent", AGENT)["session"])

    def _write_env(self) -> None:
        bindings = {one["service"]: one["port"] for one in self.status(AGENTS).get("bindings", [])}
        lines = {
            "WIKI": f"http://127.0.0.1:{bindings['wiki']}" if "wiki" in bindings else "",
            "ECHO": f"127.0.0.1:{bindings['echo']}" if "echo" in bindings else "",
            "VAULT": f"http://127.0.0.1:{bindings['vault']}" if "vault" in bindings else "",
            "MCP": f"http://127.0.0.1:{bindings['tickets']}/mcp" if "tickets" in bindings else "",
            "SID": self.session,
            "CA_PID": self.children["ca"].pid,
            "AGENTS_PID": self.children[AGENTS].pid,
            "TOOLS_PID": self.children[TOOLS].pid,
        }
        self.layout.env.write_text("".join(f"export {name}='{value}'\n" for name, value in lines.items()))

    def _is_ready(self, name: str) -> bool:
        return bool(self.status(name).get("ready"))

    def _await_answer(self, name: str) -> None:
        self._await(lambda: self.status(name), f"{name} to answer")

    def _await(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not condition():
            for name, child in self.children.items():
                if child.poll() is not None:
                    raise LocalError(
                        f"{name} ended with {child.returncode}: {_last_line(self.layout.log(name))}"
                    )
            if time.monotonic() > deadline:
                raise LocalError(f"waited {READY_SECONDS:.0f} s for {what}; see {self.layout.root / 'logs'}")
            time.sleep(POLL_SECONDS)  # noqa: TID251 - a launcher has nothing else to do


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
