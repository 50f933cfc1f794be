import numpy as np

from raymlops.graphs.kinds.shadow import PAUSE_S, MirrorThrottle, compare


def ask(throttle: MirrorThrottle, at: float, takes: float = 0.001) -> bool:
    """One request of its own; what may be mirrored is counted as started."""
    may = throttle.enter(at)
    throttle.leave(at + takes)
    throttle.mirrored += may
    return may


def test_requests_with_pauses_between_them_are_all_mirrored() -> None:
    throttle = MirrorThrottle(share=0.01)
    for i in range(20):
        assert ask(throttle, at=i * 0.1)
        throttle.spend(i * 0.1, i * 0.1 + 0.05)


def test_requests_that_follow_closely_leave_a_mirror_only_its_share() -> None:
    throttle = MirrorThrottle(share=0.01)
    spent = 0.0
    for i in range(10_000):  # ten seconds, a request each millisecond
        now = i * 0.001
        if ask(throttle, now, takes=0.0005):
            throttle.spend(now, now + 0.004)
            spent += 0.004
    assert 0.09 < spent <= 0.105


def test_a_mirror_needs_a_pause_as_long_as_itself() -> None:
    throttle = MirrorThrottle(share=0.01)
    assert ask(throttle, at=0.0)
    throttle.spend(0.0, 0.5)
    assert not ask(throttle, at=0.4)
    assert not ask(throttle, at=0.8)
    assert ask(throttle, at=1.4)


def test_while_another_request_waits_nothing_is_mirrored() -> None:
    throttle = MirrorThrottle(share=0.01)
    assert throttle.enter(0.0)
    throttle.mirrored = 1
    assert not throttle.enter(10.0)
    throttle.leave(10.0)
    throttle.leave(10.0)
    assert throttle.enter(10.0 + 2 * PAUSE_S)


def test_while_a_mirror_runs_and_requests_follow_closely_no_other_starts() -> None:
    throttle = MirrorThrottle(share=1.0)
    assert ask(throttle, at=0.0)
    assert not ask(throttle, at=0.0015)
    throttle.spend(0.0, 0.002)
    assert ask(throttle, at=0.003)


def test_a_pause_now_and_then_under_load_is_no_idleness() -> None:
    """Two busy cores make such throttle by themselves; each would cost the requests after it a mirror's run."""
    throttle = MirrorThrottle(share=0.01)
    now = spent = 0.0
    while now < 10:
        for _ in range(8):
            now += 0.001
            if ask(throttle, now, takes=0.0005):
                throttle.spend(now, now + 0.004)
                spent += 0.004
        now += 0.006
    assert 0.09 < spent <= 0.105


def test_each_caller_of_a_shared_run_is_compared_by_its_own_rows() -> None:
    ours, theirs = (
        {"y": np.array(values, np.float32)}
        for values in ([1, 2, 3, np.nan, 5, 6], [1, 2.5, 3, np.nan, 5, np.nan])
    )
    assert compare(ours, theirs, (1, 2, 1, 2), 1e-5) == (2, 0.5)
    assert compare(ours, theirs, (1, 2, 1, 2), 1.0) == (1, 0.5)
    assert compare(ours, ours, (1, 2, 1, 2), 1e-5) == (0, 0.0)
    assert compare(ours, theirs, (), 1e-5) == (1, 0.5)
