"""Work on several threads of this process."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

SLURM_CORES = "SLURM_CPUS_PER_TASK"  # not every cluster binds a job to them

Item = TypeVar("Item")
Result = TypeVar("Result")


def num_cores() -> int:
    """Cores that this process may use; within a job of Slurm, no more than it asked for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(os.environ.get(SLURM_CORES) or cores))


def for_each(items: Sequence[Item], work: Callable[[Item], None], num_threads: int) -> None:
    """Call `work` with every item, in no certain order, on the calling thread and `num_threads - 1` more, which stay.

    Whoever is free takes the next item, so that a core that is busy elsewhere holds up one item at most. After an
    error, which is raised here, no further item is begun.
    """
    remaining = iter(items)

    def run() -> None:
        try:
            for item in remaining:
                work(item)
        finally:
            deque(remaining, maxlen=0)  # nothing is left for the others, unless there was an error

    helpers = [_helpers().submit(run) for _ in range(min(num_threads, len(items)) - 1)]
    try:
        run()
    finally:
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()


def map_all(work: Callable[[Item], Result], items: Sequence[Item], num_threads: int) -> list[Result]:
    """What `work` returns for each item, in the order of the items; otherwise as `for_each`."""
    results: dict[int, Result] = {}

    def keep(position: int) -> None:
        results[position] = work(items[position])

    for_each(range(len(items)), keep, num_threads)
    return [results[position] for position in range(len(items))]


def in_order(work: Callable[[Item], Result], items: Iterable[Item], num_threads: int) -> Iterator[Result]:
    """`work` of every item, in order, computed by so many threads; only a few items are taken ahead."""
    if num_threads == 1:
        yield from map(work, items)
        return
    ahead: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) > num_threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@cache
def _helpers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_cores(), thread_name_prefix="graft")


os.register_at_fork(after_in_child=_helpers.cache_clear)  # a child has no threads but its own
