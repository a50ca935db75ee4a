"""What is said where another process of a run is gone, or hangs."""

from __future__ import annotations

import pytest

from kinolab.runtime.ranks import LostRankError, Ranks, answered

SAID = {
    "[.../unbound_buffer.cc:81] Timed out waiting 4000ms for recv operation to complete": "has not answered for 4 s",
    "[.../gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:41": "another process is gone",
    "[.../gloo/transport/tcp/pair.cc:554] Read error: Connection reset by peer": "another process is gone",
    "[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3, OpType=ALLREDUCE, Timeout(ms)=600000)": (
        "has not answered for 600 s"
    ),
}
"""What torch's backends say (paths cut) -> what becomes of it."""


@pytest.mark.parametrize("said", SAID)
def test_what_torch_says_of_another_process_becomes_a_line(said: str) -> None:
    with pytest.raises(LostRankError, match=SAID[said]) as caught, answered(Ranks(2, 4)):
        raise RuntimeError(said)
    assert str(caught.value).startswith("process 2 of 4 stops: ") and "\n" not in str(caught.value)


def test_other_errors_and_those_of_a_process_alone_are_what_they_were() -> None:
    for ranks, said in ((Ranks(), "Connection closed by peer"), (Ranks(1, 2), "shapes do not match")):
        with pytest.raises(RuntimeError, match=said) as caught, answered(ranks):
            raise RuntimeError(said)
        assert not isinstance(caught.value, LostRankError)
