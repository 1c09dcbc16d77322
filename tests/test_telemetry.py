"""Spans of a real mesh, at a collector: one trace for what a session does, over its nodes."""

from collections.abc import Iterator

import pytest

from tests.collector import Collector, collecting
from tests.mesh import Mesh, dev_mesh, until


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Mesh]:
    with dev_mesh(tmp_path_factory.mktemp("telemetry") / "mesh") as one:
        for node in ("agents-1", "tools-1"):
            one.kill(node)
            config = one.member(node) / "etc" / "node.toml"
            config.write_text(f'{config.read_text()}\n[otel]\nendpoint = "{collector.url}"\n')
            one.start(node)
        for node in ("agents-1", "tools-1"):
            one.ready(node)
        yield one


def test_a_sessions_spans_are_one_tree_over_both_nodes(mesh: Mesh, collector: Collector) -> None:
    """The session's span above the agent's node's of a stream, that above the tool's node's."""
    done = mesh.cli(
        "session",
        "exec",
        "--agent",
        "researcher",
        "--",
        "sh",
        "-c",
        "curl -s http://$LOCKGATE_WIKI_ADDR/api/health",
    )
    assert done.code == 0, done.err

    def tree() -> dict[str, tuple[str, bytes, bytes, bytes]]:
        found = {
            f"{span.name.split()[0]} {node}": (node, span.trace_id, span.span_id, span.parent_span_id)
            for node, span in collector.spans
        }
        wanted = {"invoke_agent agents-1", "stream agents-1", "stream tools-1"}
        return found if wanted <= found.keys() else {}

    spans = until(tree, "the spans")
    session, near, far = (
        spans[name] for name in ("invoke_agent agents-1", "stream agents-1", "stream tools-1")
    )
    assert session[1] == near[1] == far[1]
    assert (session[3], near[3], far[3]) == (b"", session[2], near[2])


def test_status_counts_what_was_sent(mesh: Mesh) -> None:
    """And what was dropped."""
    assert mesh.status("agents-1")["spans"]["dropped"] == 0
