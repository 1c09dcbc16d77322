"""What takes bytes from outside: any input gives a value or the one error type that says whose fault it is."""

from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import h11

from pki import codec
from pki.authority.id_token import TokenRules, check_id_token, read_keys
from pki.authority.refusal import RefusalError
from pki.chain import from_pem
from pki.errors import ConfigError, LocalError, RemoteError
from pki.framing import FrameDecoder
from pki.spiffe import SpiffeId
from pki.statement import parse
from pki.token import Token
from pki.verify import verify
from sidecar import wire
from sidecar.address import Address
from sidecar.audit.chain import unseal
from sidecar.audit.checkpoint import Signers, note_of
from sidecar.audit.lines import extent, forward
from sidecar.audit.reading import record_of
from sidecar.config import load_ca_config, load_node_config
from sidecar.http.messages import Messages
from sidecar.http.normal import normal_target, query_pairs
from sidecar.http.seams import MalformedError
from sidecar.manifest import snapshot_of
from sidecar.mcp import json, message
from sidecar.mcp.answers import ANY_LIST, EventFilter, JsonFilter, Watch
from sidecar.mcp.pins import digest
from sidecar.packed import unpack
from sidecar.policy.load import load_policy
from sidecar.policy.operation import Json, McpCall
from sidecar.proxy.local_certificate import Pin
from sidecar.proxy.sockdiag import decode_reply
from sidecar.session.narrowing import read as read_narrowing
from tests.authority import NOW, SESSION, tiny_ca
from tests.faultdisk import FaultDisk

BUNDLE = tiny_ca().bundle
RULES = TokenRules("https://login.example.org", "lockgate", "sub", NOW)


T = TypeVar("T")


def frames(data: bytes) -> None:
    """Frames, fed in two pieces."""
    decoder = FrameDecoder({**wire.STREAM_LIMITS, **wire.CONTROL_LIMITS})
    for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
        decoder.feed(piece)
        while decoder.next_frame() is not None:
            pass


def hello(data: bytes) -> None:
    wire.decode_as(wire.Hello, data, wire.FrameType.HELLO)


def messages(data: bytes) -> None:
    """Every other message, by its first byte."""
    if data and data[0] in wire.BODIES:
        wire.decode(data[0], data[1:])


def proofs(data: bytes) -> None:
    codec.decode(data, wire.ProveBody, limit=wire.STREAM_LIMITS[wire.FrameType.PROVE], what="PROVE body")


def narrowings(data: bytes) -> None:
    read_narrowing([data], SESSION)


def key_sets(data: bytes) -> None:
    read_keys(data)


def id_tokens(data: bytes) -> None:
    """Behind a header that leads further in, too."""
    for text in (data.decode("latin-1"), f"eyJhbGciOiJFUzI1NiJ9.{data.decode('latin-1')}"):
        with suppress(RefusalError):
            check_id_token(text, {}, RULES, NOW)


def chains(data: bytes) -> None:
    """Never raises at all."""
    str(verify([data], BUNDLE, NOW))
    str(verify([data[: len(data) // 2], data[len(data) // 2 :]], BUNDLE, NOW))


def texts(data: bytes) -> None:
    """Names as they stand in certificates, files and on the command line."""
    text = data.decode(errors="surrogateescape")
    for reader in (SpiffeId.parse, Address.parse, Token.parse, Pin.parse):
        try:
            reader(text)
        except (RemoteError, LocalError):
            continue


def statements(data: bytes) -> None:
    parse(data)


def pem(data: bytes) -> None:
    from_pem(data)


def policies(data: bytes) -> None:
    load_policy(data, "policy.toml")


def configs(data: bytes) -> None:
    for load in (load_node_config, load_ca_config):
        try:
            load(data, "a.toml")
        except ConfigError:
            continue


def audit_lines(data: bytes) -> None:
    unseal(data)


def kernel_replies(data: bytes) -> None:
    decode_reply(data, 1)


def mcp_documents(data: bytes) -> None:
    """What is accepted is spelled so that it is read as the same."""
    value = json.parse(data)
    assert json.parse(json.render(value)) == value


def mcp_messages(data: bytes) -> None:
    """Never raises at all; what is read is forwarded as what was read."""
    fields = ((b"content-type", b"application/json"),)
    found = message.read(data, fields)
    if isinstance(found, message.Message):
        again = message.read(found.forwarded, fields)
        assert isinstance(again, message.Message)
        assert again.calls == found.calls


class _Everything:
    """Sees all there is."""

    def could_call(self, call: McpCall) -> bool:  # noqa: ARG002 - the seam's
        return True

    def sees_tool(self, tool: dict[str, Json]) -> bool:
        return bool(digest(tool))


async def _at_once(work: Callable[[], T], size: int) -> T:
    return work()


async def _no_pause() -> None:
    pass


def mcp_answers(data: bytes) -> None:
    """In events, and whole."""
    watch = Watch(_Everything(), ANY_LIST, None, lambda _method: None, _at_once, _no_pause)
    for looking in (EventFilter(watch), JsonFilter(watch)):
        try:
            for coroutine in (looking.feed(data), looking.end()):
                with suppress(StopIteration):
                    coroutine.send(None)
        except RemoteError:
            continue


def http_messages(data: bytes) -> None:
    """Requests, and responses to one, fed in two pieces and read to the end."""
    for role in (h11.SERVER, h11.CLIENT):
        messages = Messages(role)
        if role is h11.CLIENT:
            messages.write(h11.Request(method=b"GET", target=b"/", headers=[(b"Host", b"h")]))
            messages.write(h11.EndOfMessage())
        try:
            _read_messages(messages, [data[: len(data) // 2], data[len(data) // 2 :], b""])
        except MalformedError:
            continue


def _read_messages(messages: Messages, pieces: list[bytes]) -> None:
    for piece in pieces:
        messages.feed(piece)
        if messages.is_complete and not messages.is_idle and messages.head() is None:
            continue
        while not messages.is_complete and messages.part() is not None:
            pass


def http_targets(data: bytes) -> None:
    """A target has a normal form, and that is its own."""
    path, query = normal_target(data)
    query_pairs(query)
    assert normal_target(f"{path}?{query}".encode()) == (path, query)


def packed(data: bytes) -> None:
    """A policy's text as it travels."""
    unpack(data, 65_536)


def audit_volumes(data: bytes) -> None:
    """A compressed volume, as its readers see it."""
    disk = FaultDisk()
    disk.put(Path("/v.jsonl.zst"), data)
    end = extent(disk, Path("/v.jsonl")).complete
    for _ in forward(disk, Path("/v.jsonl"), 0, end):
        pass


def audit_heads(data: bytes) -> None:
    """A signed head, its signer's introduction, and a snapshot's body, from a log of anybody's."""
    body = record_of(data) or {}
    for read in (note_of, Signers(BUNDLE).learn):
        with suppress(RemoteError):
            read(body)
    digest = sha256(data).hexdigest()
    snapshot_of(digest, {digest: data}.get, lambda text, _: load_policy(text, "policy.toml"))


TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[type[Exception], ...]]] = {
    "frames": (frames, (RemoteError,)),
    "hello": (hello, (RemoteError,)),
    "messages": (messages, (RemoteError,)),
    "proofs": (proofs, (RemoteError,)),
    "narrowings": (narrowings, (RemoteError,)),
    "key-sets": (key_sets, (RemoteError,)),
    "id-tokens": (id_tokens, ()),
    "chains": (chains, ()),
    "texts": (texts, ()),
    "statements": (statements, (RemoteError,)),
    "pem": (pem, (RemoteError,)),
    "packed": (packed, (RemoteError,)),
    "policies": (policies, (ConfigError,)),
    "configs": (configs, ()),
    "audit-lines": (audit_lines, (RemoteError,)),
    "audit-volumes": (audit_volumes, (RemoteError,)),
    "audit-heads": (audit_heads, (RemoteError,)),
    "kernel-replies": (kernel_replies, (LocalError,)),
    "http-messages": (http_messages, ()),
    "http-targets": (http_targets, (MalformedError,)),
    "mcp-documents": (mcp_documents, (RemoteError,)),
    "mcp-messages": (mcp_messages, ()),
    "mcp-answers": (mcp_answers, ()),
}


def run(name: str, data: bytes) -> None:
    """One input through one target; whatever is not an expected error is a bug."""
    target, expected = TARGETS[name]
    try:
        target(data)
    except expected:
        return
