from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from pki.clock import MINUTE
from pki.errors import ConfigError, LocalError, RefusedError, RemoteError
from pki.statement import Policy
from sidecar.ca.policies import PROPOSAL_LIFE
from sidecar.defaults import TOML_BYTES
from sidecar.gossip.editions import NO_POLICY, canary_of
from sidecar.packed import unpack
from tests.sidecar.ca.world import POLICY, Bureau
from tests.statements import lock, revocation

TWO = "apply-approvals = 2\n" + POLICY
BIGGER = TWO + "# bigger\n"


@pytest.fixture
def bureau(tmp_path: Path) -> Iterator[Bureau]:
    bureau = Bureau(tmp_path)
    yield bureau
    bureau.register.close()


@pytest.fixture
async def mesh(bureau: Bureau) -> Bureau:
    """With two nodes in the roster, which is what a policy needs."""
    await bureau.enrol("agents-1", "tools-1")
    return bureau


@pytest.fixture
async def court(mesh: Bureau) -> Bureau:
    """Two admins and an approver, and a policy in force that wants two."""
    for name, role in (("alice", "admin"), ("ada", "admin"), ("bob", "approver")):
        await mesh.enlist(name, role)
    await mesh.apply(TWO)
    return mesh


async def listing(bureau: Bureau) -> Any:
    return await bureau.office.policies.listing()


# Apply


async def test_a_policy_that_is_applied_is_in_force_at_the_ca(mesh: Bureau) -> None:
    """The answer names the statement, its sequence and the digest that every node will show."""
    answer = await mesh.apply(POLICY)
    member = mesh.office.member
    assert (answer["sequence"], answer["digest"]) == (member.loaded.sequence, member.loaded.digest)
    assert answer["id"] in member.store
    assert (answer["state"], answer["sequence"], answer["warnings"]) == ("applied", 1, [])


async def test_a_policy_is_refused_whole_with_every_fault(mesh: Bureau) -> None:
    """Nothing of it is published, and no sequence is spent; the file is named as the operator can tell."""
    with pytest.raises(ConfigError) as refused:
        await mesh.apply(POLICY.replace("-1", "-9"))
    assert [fault.where for fault in refused.value.faults] == ["policy:1", "policy:6"]
    assert mesh.office.member.loaded.policy is None
    assert (await mesh.apply(POLICY))["sequence"] == 1


async def test_a_file_that_is_no_policy_is_refused_with_every_fault(mesh: Bureau) -> None:
    """Before the roster is even looked at."""
    with pytest.raises(ConfigError) as refused:
        await mesh.apply(POLICY + '[oops]\n[agents.x]\nnodes = "many"\n')
    assert len(refused.value.faults) > 1


async def test_what_does_not_inflate_is_the_fault_of_who_sent_it(mesh: Bureau) -> None:
    """And so is a file by hand that is larger than a hand writes; a program says that it is one."""
    text = POLICY + "#" * TOML_BYTES
    with pytest.raises(RemoteError, match=f"over {TOML_BYTES} bytes"):
        await mesh.apply(text)
    assert (await mesh.apply(text, large=True))["state"] == "applied"


async def test_warnings_do_not_stop_a_policy(mesh: Bureau) -> None:
    """They come back with their line, for the operator to read."""
    answer = await mesh.apply(POLICY + "[segments.action]\n")
    assert answer["warnings"] == ["policy:19: warning: segment action has no services"]


async def test_a_policy_is_applied_by_who_has_seen_the_one_in_force(mesh: Bureau) -> None:
    """Of five at once one comes into force: the others compared theirs with what it replaced."""
    states: list[str] = []

    async def apply(number: int) -> None:
        try:
            states.append((await mesh.apply(f"{POLICY}# {number}\n"))["state"])
        except RefusedError as error:
            states.append(str(error).partition(";")[0])

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(apply, number)
    late = "another policy has come into force meanwhile"
    assert sorted(states) == sorted(["applied", late, late, late, late])
    assert mesh.office.member.loaded.sequence == 1


async def test_a_policy_may_not_drop_what_is_locked(mesh: Bureau) -> None:
    """It would lift the lock without anybody's unlock; once the lock has ended it may."""
    alice = await mesh.enlist("alice", "admin", "responder")
    await mesh.apply(POLICY)
    await mesh.hears(alice.says("lock", lock("agent", "researcher"), ttl=MINUTE))
    renamed = POLICY.replace("researcher", "scientist")
    with pytest.raises(ConfigError, match="agent:researcher is locked by"):
        await mesh.apply(renamed)
    mesh.clock.pass_time(2 * MINUTE)
    await mesh.office.beat_once()
    assert (await mesh.apply(renamed))["state"] == "applied"


async def test_a_node_that_cannot_do_what_is_required_is_stranded_by_name_only(mesh: Bureau) -> None:
    """It would refuse the policy, and everything once it is stale."""
    text = 'requires = ["tcp"]\n' + POLICY
    with pytest.raises(ConfigError, match="node agents-1 lacks tcp"):
        await mesh.apply(text)
    assert (await mesh.apply(text, strand=["agents-1", "tools-1"]))["state"] == "applied"


async def test_nobody_waits_for_a_node_that_is_revoked(mesh: Bureau) -> None:
    """It takes up no policy, whatever it lacks."""
    carol = await mesh.enlist("carol", "responder")
    await mesh.hears(carol.says("revocation", revocation("node", "agents-1")))
    with pytest.raises(ConfigError) as refused:
        await mesh.apply('requires = ["tcp"]\n' + POLICY)
    assert [fault.what for fault in refused.value.faults] == ["node tools-1 lacks tcp"]


# Versions


async def test_every_version_is_kept_and_can_be_read_again(mesh: Bureau) -> None:
    """By sequence, by digest, and as the active one; nothing before the first."""
    first = await mesh.office.policies.text("active")
    assert (first["sequence"], first["digest"], unpack(first["packed"], 10)) == (0, NO_POLICY, b"")
    texts = [f"{POLICY}# {number}\n" for number in range(3)]
    digests = [(await mesh.apply(text))["digest"] for text in texts]
    listed = await listing(mesh)
    assert [(row["sequence"], row["digest"]) for row in listed["versions"]] == [
        (number, digests[number - 1]) for number in (3, 2, 1)
    ]
    assert (listed["sequence"], listed["digest"], listed["proposals"]) == (3, digests[2], [])
    for reference, text in (("1", texts[0]), (digests[1], texts[1]), ("active", texts[2])):
        held = await mesh.office.policies.text(reference)
        assert unpack(held["packed"], TOML_BYTES).decode() == text
    with pytest.raises(RefusedError, match="'9': no such version"):
        await mesh.office.policies.text("9")


async def test_versions_outlive_the_process_and_a_row_that_was_not_written(mesh: Bureau) -> None:
    """What a full disk or a crash kept from the register is read off the store."""
    mesh.register.broken_policies = "disk full"
    with capture_logs() as logs:
        await mesh.apply(POLICY)
    assert [entry["why"] for entry in logs if "why" in entry] == ["disk full"]
    again = await mesh.restarted()
    [row] = (await listing(again))["versions"]
    assert (row["sequence"], row["author"]) == (1, "spiffe://example.org/operator/alice")
    again.register.close()


async def test_a_text_that_is_gone_is_said_to_be_gone(mesh: Bureau) -> None:
    """Not that there never was such a version."""
    digest = (await mesh.apply(POLICY))["digest"]
    (mesh.paths.objects / digest).unlink()
    with pytest.raises(LocalError, match="its text is gone"):
        await mesh.office.policies.text("1")


# Two operators


async def test_where_the_policy_in_force_wants_two_nothing_changes_before_the_second(court: Bureau) -> None:
    """Proposed by one, listed, confirmed by another, and both names are in what the CA signs."""
    proposed = await court.apply(BIGGER)
    assert (proposed["state"], court.office.member.loaded.sequence) == ("proposed", 1)
    assert [one["digest"] for one in (await listing(court))["proposals"]] == [proposed["digest"]]
    answer = await court.approve(proposed, "bob")
    assert (answer["state"], answer["sequence"]) == ("applied", 2)
    entry = court.office.member.store.newest("policy")
    assert entry is not None
    assert isinstance(entry.statement.body, Policy)
    assert entry.statement.body.author.endswith("/alice")
    assert entry.statement.body.approver.endswith("/bob")
    assert (await listing(court))["proposals"] == []


async def test_the_policy_in_force_says_how_many_it_takes(court: Bureau) -> None:
    """One that asks for a single operator needs two to come into force, and one after it needs one."""
    proposed = await court.apply(POLICY)
    assert proposed["state"] == "proposed"
    await court.approve(proposed, "bob")
    assert (await court.apply(BIGGER))["state"] == "applied"


async def test_nobody_approves_a_proposal_of_its_own(court: Bureau) -> None:
    """Nor by proposing the same again."""
    proposed = await court.apply(BIGGER)
    with pytest.raises(RefusedError, match="another operator"):
        await court.approve(proposed, "alice")
    assert (await court.apply(BIGGER))["state"] == "proposed"
    with pytest.raises(RefusedError, match="lockgate policy approve"):
        await court.apply(BIGGER, author="ada")


async def test_a_proposal_lasts_an_hour(court: Bureau) -> None:
    """Nobody finds an old one and confirms it."""
    proposed = await court.apply(BIGGER)
    court.clock.pass_time(PROPOSAL_LIFE)
    await court.office.beat_once()
    with pytest.raises(RefusedError, match="is waiting"):
        await court.approve(proposed, "bob")
    assert (await listing(court))["proposals"] == []


async def test_what_is_approved_is_what_was_seen(court: Bureau) -> None:
    """Proposed anew on other terms, or overtaken by another policy, it must be looked at again."""
    seen = await court.apply(BIGGER)
    await court.apply(BIGGER, strand=["tools-1"])
    with pytest.raises(RefusedError, match="on other terms"):
        await court.approve(seen, "bob")
    first, second = await court.apply(BIGGER), await court.apply(POLICY)
    await court.approve(first, "bob")
    with pytest.raises(RefusedError, match="come into force meanwhile"):
        await court.approve(second, "bob")


async def test_a_proposal_ends_with_its_author(court: Bureau) -> None:
    """Revoked, what alice proposed is void at once."""
    carol = await court.enlist("carol", "responder")
    proposed = await court.apply(BIGGER, author="alice")
    await court.enlist("alice", "responder")  # no admin any more
    with pytest.raises(RefusedError, match="is no admin any more"):
        await court.approve(proposed, "bob")
    other = await court.apply(BIGGER + "#", author="bob")
    await court.hears(carol.says("revocation", revocation("operator", "bob")))
    with pytest.raises(RefusedError, match="is no admin any more"):
        await court.approve(other, "ada")


async def test_a_proposal_is_checked_again_when_it_is_approved(court: Bureau) -> None:
    """The roster and the locks have gone on."""
    await court.enrol("tools-2")
    renamed = TWO.replace("researcher", "scientist")
    proposed = await court.apply(renamed)
    carol = await court.enlist("carol", "responder")
    await court.hears(carol.says("lock", lock("agent", "researcher"), ttl=MINUTE))
    with pytest.raises(ConfigError, match="agent:researcher is locked"):
        await court.approve(proposed, "bob")


async def test_proposals_outlive_the_process(court: Bureau) -> None:
    """An hour is long, and a CA restarts."""
    proposed = await court.apply(BIGGER)
    again = await court.restarted()
    assert (await again.approve(proposed, "bob"))["state"] == "applied"
    again.register.close()


# Canaries


async def test_a_canary_leaves_the_policy_of_the_mesh_as_it_is(mesh: Bureau) -> None:
    """The CA signs it for the nodes that it names, and goes on with the old one; the next policy ends it."""
    await mesh.apply(POLICY)
    answer = await mesh.apply(POLICY + "# new\n", canary=["tools-1"])
    member = mesh.office.member
    assert (answer["sequence"], member.loaded.sequence) == (2, 1)
    canary = canary_of(member.store)
    assert canary is not None
    assert (canary.nodes, canary.sequence) == (["tools-1"], 2)
    listed = await listing(mesh)
    assert (listed["canary"], listed["versions"][0]["nodes"]) == (2, ["tools-1"])
    await mesh.apply(POLICY + "# new\n")
    assert (member.loaded.sequence, canary_of(member.store)) == (3, None)


async def test_a_canary_names_nodes_of_the_roster(mesh: Bureau) -> None:
    """A name that is mistyped would be a canary nowhere."""
    with pytest.raises(ConfigError, match="--canary tools-9: there is no such node"):
        await mesh.apply(POLICY, canary=["tools-9"])


async def test_a_canary_takes_two_where_a_policy_does(court: Bureau) -> None:
    """It permits as much, on the nodes that it names."""
    proposed = await court.apply(BIGGER, canary=["tools-1"])
    assert (proposed["state"], proposed["nodes"]) == ("proposed", ["tools-1"])
    await court.approve(proposed, "bob")
    assert canary_of(court.office.member.store) is not None
