from tests.sidecar.policy.world import POLICY, policy_of


def test_a_node_opens_the_bindings_of_its_agents() -> None:
    """A binding exists on every node that its agent may run on, and nowhere else."""
    policy = policy_of(POLICY)
    assert {
        node: [binding.port for binding in policy.bindings_on(node)]
        for node in ("agents-1", "agents-2", "tools-1")
    } == {"agents-1": [15001, 15002], "agents-2": [15002], "tools-1": []}


def test_a_node_stands_beside_its_services() -> None:
    """A node dials no target but those that the policy puts there."""
    policy = policy_of(POLICY)
    assert {
        node: [service.name for service in policy.services_on(node)]
        for node in ("agents-1", "tools-1", "tools-2")
    } == {"agents-1": [], "tools-1": ["wiki", "tickets"], "tools-2": ["tickets", "vault"]}
