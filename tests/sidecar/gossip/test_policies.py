import hashlib
from pathlib import Path

import pytest

from pki.fields import Wire
from pki.statement import Policy
from sidecar.gossip import policies
from sidecar.gossip.policies import Loaded, Policies
from sidecar.gossip.texts import PART_BYTES
from sidecar.objects import Objects
from sidecar.packed import unpack
from sidecar.policy.features import ENFORCED, Feature
from sidecar.policy.load import load_policy
from sidecar.wire import Fetch, Object
from tests.sidecar.ca.world import POLICY

NOISE = "".join(f"# {hashlib.sha256(b'%d' % n).hexdigest()}\n" for n in range(12_000)).encode()
"""It deflates to more than one part."""


class Desk:
    """What is sent, and the folder of texts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = Objects(folder)
        self.sent: list[Wire] = []
        self.policies = Policies(self.objects, lambda _, message: self.sent.append(message))

    async def part(self, digest: str, offset: int) -> Object:
        await self.policies.serve("peer", Fetch(digest=digest, offset=offset))
        part = self.sent.pop()
        assert isinstance(part, Object)
        return part


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def named(text: bytes) -> Policy:
    return Policy(sequence=3, digest=hashlib.sha256(text).hexdigest(), size=len(text), author="alice")


async def test_a_policy_that_requires_what_this_version_lacks_is_refused_whole(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever else is in it: its author said that without this it means something else."""
    lacking = Feature.PINS
    monkeypatch.setattr(policies, "ENFORCED", ENFORCED - {lacking})
    text = f'requires = ["tcp", "{lacking}"]\n{POLICY}'.encode()
    desk.objects.put(text)
    current = Loaded(2, "ab" * 32, None)
    loaded = await desk.policies.prepare(named(text), current, [])
    assert loaded == Loaded(
        2, "ab" * 32, None, f"policy 3: it requires {lacking}, which this version has not"
    )


async def test_a_large_text_is_deflated_once_for_all_its_parts(desk: Desk) -> None:
    """Not again for each: its peers fetch it part by part, and all at the same time."""
    digest = desk.objects.put(NOISE)
    first = await desk.part(digest, 0)
    (desk.folder / digest).unlink()
    packed = first.data
    while len(packed) < first.total:
        packed += (await desk.part(digest, len(packed))).data
    assert unpack(packed, len(NOISE)) == NOISE
    assert first.total > PART_BYTES


async def test_a_large_policy_is_put_in_force_without_an_option(desk: Desk) -> None:
    """The option is for whoever applies it by hand; what the CA signed is signed."""
    text = POLICY.encode() + NOISE + NOISE
    desk.objects.put(text)
    loaded = await desk.policies.prepare(named(text), Loaded(), [])
    assert loaded is not None
    assert (loaded.sequence, loaded.fault, loaded.policy is not None) == (3, "", True)


async def test_what_is_offered_is_not_read_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and only for the text that it was made of: the CA has compiled what it is about to publish."""
    text, other = POLICY.encode(), POLICY.encode() + b"# other\n"
    desk.objects.put(text)
    desk.objects.put(other)
    read: list[bytes] = []

    def load(text: bytes, name: str, limit: int) -> object:
        read.append(text)
        return load_policy(text, name, limit)

    monkeypatch.setattr("sidecar.gossip.policies.load_aside", load)
    policy = load_policy(text, "policy.toml")
    desk.policies.offer(policy)
    loaded = await desk.policies.prepare(named(text), Loaded(), [])
    assert loaded is not None
    assert (loaded.policy is policy, read) == (True, [])
    desk.policies.offer(policy)
    for one in (other, text):
        assert await desk.policies.prepare(named(one), Loaded(), []) is not None
    assert read == [other, text]
