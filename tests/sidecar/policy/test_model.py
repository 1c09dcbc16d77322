from tests.sidecar.policy.world import POLICY, policy_of


def test_a_node_opens_the_bindings_of_its_agents() -> None:
    """A binding exists on every node that its agent may run on, and nowhere else."""
    policy = policy_of(POLICY)
    assert {
        node: [binding.port for binding in policy.bindings_on(node)]
        for node in ("agents-1", "agents-2", "tools-1")
    } == {"agents-1": [15001, 15002], "agents-2": [15002], "tools-1": []}
