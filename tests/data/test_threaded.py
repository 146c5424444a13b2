import os
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.data.threaded import for_each, map_all


@settings(max_examples=30)
@given(num=st.integers(0, 50), num_threads=st.integers(1, 5))
def test_every_item_is_worked_on_once_and_results_keep_its_order(num: int, num_threads: int) -> None:
    seen: list[int] = []
    for_each(range(num), seen.append, num_threads)
    assert sorted(seen) == list(range(num))
    assert map_all(str, range(num), num_threads) == [str(item) for item in range(num)]


def test_other_threads_take_part() -> None:
    together = threading.Barrier(2, timeout=60)  # passes only where two are at work at once
    for_each(range(2), lambda _: together.wait() and None, 2)


def test_work_may_be_shared_out_again() -> None:
    found = map_all(lambda item: sum(map_all(lambda other: other * item, range(5), 4)), range(8), 4)
    assert found == [10 * item for item in range(8)]


@pytest.mark.parametrize("num_threads", [1, 2])
def test_after_an_error_no_further_item_is_begun(num_threads: int) -> None:
    begun: list[int] = []

    def fail(item: int) -> None:
        begun.append(item)
        time.sleep(0.01)  # long enough for the other thread to begin as well
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item"):
        for_each(range(100), fail, num_threads)
    assert len(begun) <= num_threads


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_process_has_threads_of_its_own() -> None:
    for_each(range(4), lambda _: None, 2)
    child = os.fork()
    if child == 0:
        together = threading.Barrier(2, timeout=60)
        try:
            for_each(range(2), lambda _: together.wait() and None, 2)
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
