"""Trace contexts (W3C Trace Context, version 00, always sampled): one trace for a session, one span for each stream."""

import re

ROOT_ENTROPY = 24
SPAN_ENTROPY = 8

_CONTEXT = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def root(entropy: bytes) -> str:
    """A new trace from ROOT_ENTROPY random bytes."""
    return _spell(entropy[:16].hex(), entropy[16:ROOT_ENTROPY].hex())


def child(parent: str, entropy: bytes) -> str:
    """Another span in the trace of ``parent``, from SPAN_ENTROPY random bytes."""
    _, trace, _, _ = parent.split("-")
    return _spell(trace, entropy[:SPAN_ENTROPY].hex())


def continues(own: str, said: bytes) -> bool:
    """Whether ``said``, a caller's own word, is a trace context in the trace of ``own``."""
    return _CONTEXT.fullmatch(said) is not None and said[3:35].decode() == own[3:35]


def _spell(trace: str, span: str) -> str:
    return f"00-{trace}-{span}-01"
