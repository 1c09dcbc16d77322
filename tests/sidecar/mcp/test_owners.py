from sidecar.mcp.owners import Owners


def test_a_server_s_session_belongs_to_whom_it_was_given() -> None:
    """Another session of ours that has got hold of its id gets nothing by it, and cannot take it."""
    owners = Owners()
    assert owners.learn("wiki", "1", "mine")
    assert owners.learn("wiki", "1", "mine")
    assert not owners.learn("wiki", "1", "yours")
    assert owners.owner("wiki", "1") == "mine"
    assert owners.learn("crm", "1", "yours")
    assert owners.known("mine") == [("wiki", "1")]


def test_who_asks_learns_nothing() -> None:
    """An id that no server gave is nobody's, however often it is presented."""
    owners = Owners()
    assert owners.owner("wiki", "1") is None
    assert owners.owner("wiki", "1") is None
    assert owners.learn("wiki", "1", "mine")


def test_only_so_many_are_remembered() -> None:
    """The one not used for longest goes."""
    owners = Owners(most=2)
    for number in ("1", "2"):
        owners.learn("wiki", number, "mine")
    assert owners.owner("wiki", "1") == "mine"
    owners.learn("wiki", "3", "yours")
    assert [owners.owner("wiki", number) for number in "123"] == ["mine", None, "yours"]


def test_who_begins_one_after_the_other_displaces_nobody_else() -> None:
    """Only its own of the same service; what is used stays."""
    owners = Owners(most_of_session=2)
    for service, number, session in (("wiki", "0", "yours"), ("crm", "0", "mine")):
        owners.learn(service, number, session)
    for number in ("1", "2"):
        owners.learn("wiki", number, "mine")
    assert owners.owner("wiki", "1") == "mine"
    owners.learn("wiki", "3", "mine")
    assert [owners.owner("wiki", number) for number in "0123"] == ["yours", "mine", None, "mine"]
    assert owners.owner("crm", "0") == "mine"
    alone = Owners(most=1)
    alone.learn("wiki", "1", "mine")
    alone.learn("wiki", "2", "yours")
    assert alone.known("mine") == []
