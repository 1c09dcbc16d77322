import pytest

from sidecar.proxy.arrival import EndedError, end_reason
from sidecar.reasons import Reason


@pytest.mark.parametrize(
    ("word", "reason"),
    [("", None), *((reason.value, reason) for reason in Reason), ("from_tomorrow", Reason.BAD_REQUEST)],
)
def test_a_peers_word_is_one_of_our_reasons(word: str, reason: Reason | None) -> None:
    """Nothing at all is a caller that went away; a newer version's word is still a refusal."""
    assert end_reason(word) is reason


def test_an_end_carries_what_the_caller_is_told() -> None:
    """Reason, rule and hint, and whose doing it was."""
    end = EndedError(Reason.LOCKED, "a-lock", "by alice", by_peer=True)
    assert (end.reason, end.rule, end.hint, end.by_peer) == (Reason.LOCKED, "a-lock", "by alice", True)
    assert not EndedError(None).by_peer
