from sidecar.mcp.owners import Owners


def test_a_server_s_session_belongs_to_whom_it_was_seen_with_first() -> None:
    """Another session of ours that has got hold of its id gets nothing by it."""
    owners = Owners()
    assert owners.take("wiki", "1", "mine")
    assert owners.take("wiki", "1", "mine")
    assert not owners.take("wiki", "1", "yours")
    assert owners.take("crm", "1", "yours")


def test_only_so_many_are_remembered() -> None:
    """The one not used for longest goes."""
    owners = Owners(most=2)
    owners.take("wiki", "1", "mine")
    owners.take("wiki", "2", "mine")
    owners.take("wiki", "1", "mine")
    owners.take("wiki", "3", "mine")
    assert not owners.take("wiki", "1", "yours")
    assert owners.take("wiki", "2", "yours")
