from dataclasses import replace
from typing import Any

import pytest

from pki.clock import DAY, HOUR, Wall
from pki.errors import RemoteError
from sidecar.audit.chain import Head
from sidecar.audit.checkpoint import (
    Note,
    Pen,
    Signatory,
    Signers,
    introduction,
    is_signed,
    note_of,
    sign,
)
from sidecar.audit.record import Facts, Kind
from tests.authority import NOW, new_key, tiny_ca
from tests.statements import Mint

MINT = Mint()
CA = MINT.ca
HEAD = Head("v.jsonl", 41, bytes(range(32)))


def signatory(name: str = "tools-1", lifetime: int = HOUR) -> Signatory:
    key, node = new_key(), CA.node(name)
    return Signatory(node, CA.issue(node, key, NOW, lifetime), key, CA.bundle_statement.raw)


US = signatory()


def signers(who: Signatory = US, **more: Any) -> Signers:
    found = Signers(CA.bundle)
    found.learn({**introduction(who.chain, who.bundle), **more})
    return found


def test_a_checkpoint_says_how_many_records_and_with_which_chain_value() -> None:
    """And by whom: whoever has the trust bundle can check it."""
    note = sign(US, HEAD, NOW)
    assert (note.volume, note.count, note.head) == ("v.jsonl", 42, HEAD.chain.hex())
    assert note_of(note.facts()) == note
    signers().check(note, "tools-1")


def test_a_signer_is_introduced_once_a_volume() -> None:
    """With its chain and its bundle; under a new certificate again."""
    pen = Pen(US, NOW)
    first, note = pen(HEAD, "")
    second, _ = pen(HEAD, note.leaf)
    assert first.kind is Kind.CHECKPOINT
    assert {"certificates", "bundle"} <= first.fields.keys()
    assert not {"certificates", "bundle"} & second.fields.keys()
    assert "certificates" in Pen(signatory(), NOW)(HEAD, note.leaf)[0].fields


@pytest.mark.parametrize(
    "change",
    [{"volume": "w.jsonl"}, {"count": 43}, {"head": "00" * 32}, {"at": Wall(NOW + 1)}, {"signature": b"x"}],
    ids=str,
)
def test_whatever_is_changed_the_signature_does_not_hold(change: dict[str, Any]) -> None:
    """Each field of it is signed."""
    note = replace(sign(US, HEAD, NOW), **change)
    assert not is_signed(note, US.chain)
    with pytest.raises(RemoteError, match="its signature does not hold"):
        signers().check(note, "tools-1")


def test_only_the_node_itself_signs_its_log() -> None:
    """Not another node, no agent, and nobody whom the bundle does not know."""
    other = signatory("tools-2")
    with pytest.raises(RemoteError, match=r"is signed by spiffe://example.org/node/tools-2, not by tools-1"):
        signers(other).check(sign(other, HEAD, NOW), "tools-1")
    with pytest.raises(RemoteError, match="not by tools-1"):
        signers().check(replace(sign(US, HEAD, NOW), by="spiffe://example.org/node/tools-2"), "tools-1")
    key, agent = new_key(), CA.agent("tools-1")
    posing = Signatory(agent, CA.issue(agent, key), key)
    with pytest.raises(RemoteError, match="not by tools-1"):
        signers(posing).check(sign(posing, HEAD, NOW), "tools-1")
    stranger = replace(US, chain=tiny_ca().issue(US.id, US.key))
    with pytest.raises(RemoteError, match="by nobody that the trust bundle knows"):
        signers(stranger).check(sign(stranger, HEAD, NOW), "tools-1")


def test_the_ca_signs_its_own_log() -> None:
    """With the key that it presents."""
    name = MINT.ca.node("x").for_ca(CA.trust_domain, "ca-1")
    us = Signatory(name, CA.ca_chain, CA.ca_key, CA.bundle_statement.raw)
    signers(us).check(sign(us, HEAD, NOW), "ca-1")


def test_a_signer_that_was_not_introduced_is_not_believed() -> None:
    """There is nothing to judge it by."""
    with pytest.raises(RemoteError, match="under a certificate that is not at hand"):
        Signers(CA.bundle).check(sign(US, HEAD, NOW), "tools-1")


@pytest.mark.parametrize("at", [NOW - DAY, NOW, NOW + DAY])
def test_a_log_goes_on_after_its_certificate_has_ended(at: int) -> None:
    """The time is the signer's own word: it adds nothing to what the key proves."""
    signers().check(sign(US, HEAD, Wall(at)), "tools-1")


def test_a_bundle_of_another_root_is_refused() -> None:
    """A log cannot bring its own trust."""
    with pytest.raises(RemoteError, match="not signed by a root that is trusted here"):
        signers(replace(US, bundle=tiny_ca().bundle_statement.raw))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"count": "42"},
        {"signature": "?"},
        {"signature": "A" * 200_000},
        {"by": None},
    ],
    ids=lambda fields: str(fields)[:20],
)
def test_what_holds_no_signed_head_is_refused(fields: Facts) -> None:
    """Whatever a record holds in its place."""
    with pytest.raises(RemoteError):
        note_of({**sign(US, HEAD, NOW).facts(), **fields} if fields else {})


@pytest.mark.parametrize(
    "introduced", [{"certificates": [5]}, {"certificates": ["?"]}, {"bundle": "AAAA"}], ids=str
)
def test_what_introduces_nobody_is_refused(introduced: Facts) -> None:
    """No bytes are taken for a certificate or bundle that are none."""
    with pytest.raises(RemoteError):
        Signers(CA.bundle).learn(introduced)


def test_a_note_without_introduction_teaches_nothing() -> None:
    """Most records are of that kind."""
    found = Signers(CA.bundle)
    found.learn({"certificates": []})
    found.learn({})
    note: Note = sign(US, HEAD, NOW)
    with pytest.raises(RemoteError, match="not at hand"):
        found.check(note, "tools-1")
