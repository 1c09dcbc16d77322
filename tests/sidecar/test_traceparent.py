import re

from hypothesis import given
from hypothesis import strategies as st

from sidecar.traceparent import ROOT_ENTROPY, SPAN_ENTROPY, child, continues, root

# https://www.w3.org/TR/trace-context/#traceparent-header
FORM = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01")


@given(st.binary(min_size=ROOT_ENTROPY, max_size=ROOT_ENTROPY))
def test_a_root_has_the_one_form(entropy: bytes) -> None:
    """Version 00, trace, span, sampled."""
    assert FORM.fullmatch(root(entropy))


@given(
    st.binary(min_size=ROOT_ENTROPY, max_size=ROOT_ENTROPY),
    st.binary(min_size=SPAN_ENTROPY, max_size=SPAN_ENTROPY),
)
def test_a_child_is_another_span_of_the_same_trace(first: bytes, second: bytes) -> None:
    """The trace stays, the span is the new bytes."""
    parent = root(first)
    made = child(parent, second)
    assert FORM.fullmatch(made)
    assert made.split("-")[1] == parent.split("-")[1]
    assert made.split("-")[2] == second.hex()


@given(
    st.binary(min_size=ROOT_ENTROPY, max_size=ROOT_ENTROPY),
    st.binary(min_size=SPAN_ENTROPY, max_size=SPAN_ENTROPY),
)
def test_a_caller_continues_its_own_trace_only(first: bytes, second: bytes) -> None:
    """Another trace's context is not believed, nor what only looks like one."""
    own = root(first)
    said = child(own, second).encode()
    assert continues(own, said)
    assert continues(own, said[:-2] + b"00")
    other = root(bytes([first[0] ^ 1]) + first[1:])
    for word in (b"", said[:-1], said + b"0", said.upper() + b"\n", other.encode(), b"01" + said[2:]):
        assert not continues(own, word)
