import pytest

from tests.bench.report import BEGIN, END, Results, insert, render


def results() -> Results:
    found = Results()
    for number in (3.0, 1.0, 2.0):
        found.add("nginx", {"opens": 100 * number, "trip-p50": 10.0})
        found.add(
            "lockgate",
            {"opens": 200 * number, "trip-p50": 20.0, "revoke-typed": number, "revoke-signed": 0.5},
        )
    return found


def test_a_cell_holds_the_median_and_the_spread() -> None:
    """One round proves nothing: the lowest and the highest stand beside the median."""
    page = render(results(), ["lockgate", "nginx"], {"kernel": "Linux"})
    assert "| opens per second, 8 clients | 400 (200 - 600) | 200 (100 - 300) |" in page
    assert "- kernel: Linux" in page


def test_the_start_of_a_session_stands_alone() -> None:
    """No peer has any such thing."""
    found = results()
    found.add("lockgate", {"session-start": 12.34, "session-exec": 345.0})
    page = render(found, ["lockgate", "nginx"], {})
    assert "| its start, from asking to the answer, ms | 12.3 |" in page
    assert "| all of `session exec true`, ms | 345.0 |" in page
    assert "`session exec true`" not in render(results(), ["lockgate"], {})


def test_what_a_caller_costs_stands_alone() -> None:
    """Microseconds, by kind of entrance."""
    found = results()
    found.add("lockgate", {"attribution-tcp": 31.4, "attribution-unix": 62.6})
    page = render(found, ["lockgate", "nginx"], {})
    assert "| over loopback TCP, µs | 31 |" in page
    assert "| over a Unix socket, µs | 63 |" in page


def test_what_is_better_depends_on_the_metric() -> None:
    """More opens are better, a longer round trip is not."""
    page = render(results(), ["lockgate", "nginx"], {})
    assert "| opens per second, 8 clients | **2.00** |" in page
    assert "| warm round trip of 64 bytes, p50, µs | 2.00 |" in page


def test_lockgate_alone_has_no_ratios() -> None:
    """Where no peer is installed, what there is stands alone."""
    assert "multiples" not in render(results(), ["lockgate"], {})


def test_only_what_is_between_the_markers_changes() -> None:
    """The words around the tables are written by hand."""
    page = f"# Head\n\n{BEGIN}\nold\n{END}\n\ntail\n"
    assert insert(page, "new") == f"# Head\n\n{BEGIN}\n\nnew\n\n{END}\n\ntail\n"
    with pytest.raises(ValueError, match="no markers"):
        insert("# Head", "new")
