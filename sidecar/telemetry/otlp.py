"""Spans as OpenTelemetry's own exporter sends them (OTLP 1.x over HTTP, protobuf)."""

import logging  # noqa: TID251 - the library speaks through it, and is told not to
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from sidecar.telemetry.spans import Span
from sidecar.version import VERSION

_SCOPE = InstrumentationScope("lockgate", VERSION)


class OtlpSender:
    """Blocking: for a thread."""

    def __init__(self, endpoint: str, node: str, seconds: float) -> None:
        logging.getLogger("opentelemetry").setLevel(
            logging.CRITICAL
        )  # What fails is said once, by who calls us.
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=seconds)
        self._resource = Resource({"service.name": "lockgate", "service.version": VERSION, "host.name": node})

    def send(self, batch: Sequence[Span]) -> bool:
        """Whether the collector took them."""
        try:
            return self._exporter.export([self._readable(one) for one in batch]) is SpanExportResult.SUCCESS
        except Exception:  # noqa: BLE001 - a fault of the library's must not end the daemon; the batch counts as dropped
            return False

    def _readable(self, span: Span) -> ReadableSpan:
        return ReadableSpan(
            name=span.name,
            context=_context(span.trace, span.id),
            parent=_context(span.trace, span.parent) if span.parent else None,
            resource=self._resource,
            attributes=span.attributes,
            kind=SpanKind.SERVER,
            instrumentation_scope=_SCOPE,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=span.start * 1_000,
            end_time=span.end * 1_000,
        )


def _context(trace: str, span: str) -> SpanContext:
    return SpanContext(
        int(trace, 16), int(span, 16), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )
