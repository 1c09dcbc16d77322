from sidecar.policy.load import load_policy
from sidecar.proxy.conversation import hosts_of

POLICY = """
[services.wiki]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:8001"
protocol = "http"
{host}
[services.other]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:8001"
[agents.researcher]
nodes = ["agents-1"]
uid = 1001
[[bindings]]
agent = "researcher"
service = "wiki"
listen = {listen}
[[bindings]]
agent = "researcher"
service = "other"
listen = 15002
"""


def hosts(listen: str, host: str = "") -> frozenset[str]:
    policy = load_policy(POLICY.format(listen=listen, host=host).encode(), "policy.toml")
    return hosts_of(policy.bindings, "researcher", policy.services["wiki"])


def test_a_port_is_called_by_its_loopback_names() -> None:
    """Those of the service's own bindings, and no others'."""
    assert hosts("15001") == {"127.0.0.1:15001", "localhost:15001", "[::1]:15001"}


def test_the_port_of_http_need_not_be_said() -> None:
    """Clients leave it out."""
    assert hosts("80") >= {"127.0.0.1", "localhost", "localhost:80"}


def test_a_service_is_called_by_its_host_too() -> None:
    """With the binding's port, as a client with a name that leads to loopback says it."""
    assert hosts("15001", 'host = "wiki.internal"') >= {"wiki.internal", "wiki.internal:15001"}


def test_a_unix_socket_has_no_name_of_its_own() -> None:
    """No web page reaches it: clients say localhost, or the service's name."""
    assert hosts('"unix:/run/wiki.sock"') == {"localhost", "wiki"}
