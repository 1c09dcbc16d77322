from collections.abc import Iterator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from pki.clock import Wall
from sidecar.telemetry.otlp import OtlpSender
from sidecar.telemetry.spans import Span
from tests.collector import Collector, collecting

SPAN = Span(
    "GET", "ab" * 16, "12" * 8, "34" * 8, Wall(1_000_000), Wall(1_000_250), {"url.path": "/a"}, "locked"
)
ROOT = Span("invoke_agent x", "ab" * 16, "34" * 8, "", Wall(0), Wall(1))


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


def test_a_collector_reads_what_we_send(collector: Collector) -> None:
    """Ids, parents, times in nanoseconds, attributes, the error and who says so."""
    assert OtlpSender(collector.url, "agents-1", 5).send([SPAN, ROOT])
    (group,) = collector.requests[0].resource_spans
    said = {one.key: one.value.string_value for one in group.resource.attributes}
    assert (said["service.name"], said["host.name"]) == ("lockgate", "agents-1")
    span, root = group.scope_spans[0].spans
    assert (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()) == (
        SPAN.trace,
        SPAN.id,
        SPAN.parent,
    )
    assert (span.start_time_unix_nano, span.end_time_unix_nano) == (1_000_000_000, 1_000_250_000)
    assert [(one.key, one.value.string_value) for one in span.attributes] == [("url.path", "/a")]
    assert (span.status.code, span.status.message) == (Status.STATUS_CODE_ERROR, "locked")
    assert (root.parent_span_id, root.status.code) == (b"", Status.STATUS_CODE_UNSET)


def test_what_a_collector_refuses_is_not_taken(collector: Collector) -> None:
    """The batch counts as dropped."""
    collector.status = 400
    assert not OtlpSender(collector.url, "agents-1", 5).send([SPAN])


def test_no_collector_is_not_taken_in_a_bounded_time() -> None:
    """The thread is needed again."""
    with Collector() as gone:
        url = gone.url
    assert not OtlpSender(url, "agents-1", 0.2).send([SPAN])
