from hypothesis import given
from hypothesis import strategies as st

from pki.clock import MINUTE, SECOND, Boot
from sidecar.policy.model import Quota, Window
from sidecar.proxy.quotas import UNLIMITED, Allowance, Excess, Meter, Quotas

T0 = Boot(10**12)

NONE = Quota(None, None, None)
STREAMS = Quota(2, None, None)
REQUESTS = Quota(None, Window(3, MINUTE), None)
BYTES = Quota(None, None, Window(1_000, MINUTE))


def opened(
    quotas: Quotas, agent: Quota | None = None, session: Quota | None = None, name: str = "s1"
) -> Allowance:
    found = quotas.open(("researcher", agent), (name, session), T0)
    assert isinstance(found, Allowance)
    return found


def test_without_a_quota_nothing_is_counted() -> None:
    """No owner is kept for it."""
    quotas = Quotas()
    allowance = opened(quotas)
    assert allowance is UNLIMITED
    assert allowance.request(T0) is None
    assert allowance.spend(10**12, T0) is None
    assert len(quotas) == 0


def test_streams_are_limited_at_one_time() -> None:
    """One that ended makes room for another."""
    quotas = Quotas()
    first = opened(quotas, STREAMS)
    opened(quotas, STREAMS, name="s2")
    refused = quotas.open(("researcher", STREAMS), ("s3", None), T0)
    assert refused == Excess("streams of agent researcher", SECOND)
    assert isinstance(refused, Excess)
    assert refused.hint == "the quota of streams of agent researcher is used up"
    quotas.close(first)
    opened(quotas, STREAMS)


def test_a_session_has_a_quota_of_its_own() -> None:
    """Another session of the same agent is not affected, the agent's own quota is for both."""
    quotas = Quotas()
    opened(quotas, Quota(3, None, None), STREAMS)
    opened(quotas, Quota(3, None, None), STREAMS)
    refused = quotas.open(("researcher", Quota(3, None, None)), ("s1", STREAMS), T0)
    assert isinstance(refused, Excess)
    assert "this session" in refused.what
    opened(quotas, Quota(3, None, None), STREAMS, name="s2")
    refused = quotas.open(("researcher", Quota(3, None, None)), ("s2", STREAMS), T0)
    assert isinstance(refused, Excess)
    assert "agent researcher" in refused.what


def test_requests_are_limited_in_any_window() -> None:
    """The refusal says when there will be room, and then there is."""
    quotas = Quotas()
    allowance = opened(quotas, session=REQUESTS)
    assert [allowance.request(T0) for _ in range(3)] == [None] * 3
    refused = allowance.request(T0)
    assert refused is not None
    assert "requests of this session" in refused.what
    assert MINUTE <= refused.retry_after <= MINUTE * 11 // 10
    assert allowance.request(Boot(T0 + MINUTE - 1)) is not None
    assert allowance.request(Boot(T0 + refused.retry_after)) is None


def test_bytes_end_the_stream_that_passes_too_many_and_refuse_the_next() -> None:
    """Up to the limit all is well."""
    quotas = Quotas()
    allowance = opened(quotas, BYTES, REQUESTS)
    assert allowance.spend(999, T0) is None
    assert allowance.request(T0) is None
    assert allowance.spend(1, T0) is None
    assert allowance.request(T0) == Excess("bytes of agent researcher", allowance.spent(T0).retry_after)  # type: ignore[union-attr] # just seen
    assert allowance.spend(1, T0) is not None
    assert isinstance(quotas.open(("researcher", BYTES), ("s9", None), T0), Excess)
    later = Boot(T0 + 2 * MINUTE)
    assert isinstance(quotas.open(("researcher", BYTES), ("s9", None), later), Allowance)


def test_an_unchanged_quota_goes_on_counting() -> None:
    """Another stream of the same owner counts with the first."""
    quotas = Quotas()
    both = Quota(None, Window(3, MINUTE), Window(1_000, MINUTE))
    opened(quotas, both).spend(600, T0)
    assert opened(quotas, both).spend(500, T0) is not None


def test_more_than_the_limit_at_once_never_fits() -> None:
    """It is told a window."""
    assert Meter(Window(3, MINUTE)).wait(4, T0) == MINUTE


def test_a_changed_window_begins_anew() -> None:
    """A policy that changes it is followed by the next stream."""
    quotas = Quotas()
    allowance = opened(quotas, REQUESTS)
    for _ in range(3):
        allowance.request(T0)
    wider = opened(quotas, Quota(None, Window(5, MINUTE), Window(10, MINUTE)))
    assert [wider.request(T0) for _ in range(5)] == [None] * 5
    opened(quotas, NONE)
    assert allowance.request(T0) is None


def test_owners_without_use_are_forgotten() -> None:
    """Sessions come and go by the million."""
    quotas = Quotas()
    allowance = opened(quotas, STREAMS, REQUESTS)
    allowance.request(T0)
    quotas.forget_unused(T0)
    assert len(quotas) == 2
    quotas.close(allowance)
    quotas.forget_unused(T0)
    assert len(quotas) == 1
    quotas.forget_unused(Boot(T0 + 2 * MINUTE))
    assert len(quotas) == 0


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), max_size=60),
    st.integers(1, 10),
    st.integers(1, 100),
)
def test_no_window_ever_holds_more_than_its_limit(steps: list[tuple[int, int]], count: int, per: int) -> None:
    """However the uses fall; and what is refused until an instant is let in at it."""
    meter, now, used = Meter(Window(count, per)), 0, []
    for pause, amount in steps:
        now += pause
        wait = meter.wait(amount, Boot(now))
        if wait == 0:
            meter.use(amount, Boot(now))
            used.append((now, amount))
        elif amount <= count:
            assert meter.wait(amount, Boot(now + wait)) == 0
            # Asked for a later instant, the meter has forgotten: go on from there.
            now += wait
        for at, _ in used:
            assert sum(n for then, n in used if at <= then < at + per) <= count
