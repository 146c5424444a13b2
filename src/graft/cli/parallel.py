"""Jobs of a sweep at the same time: how many, and how they share the cores."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from graft.data.threaded import num_cores

THREADS = "OMP_NUM_THREADS"


def parallel_jobs(n_jobs: int, num_jobs: int, cores: int | None = None) -> int:
    """How many jobs run at once under joblib's setting `n_jobs`: -1 is one a core, -2 leaves one core out.

    `num_jobs` is how many there are, 0 where the sweeper finds that out.

    >>> parallel_jobs(-1, num_jobs=3, cores=8), parallel_jobs(-2, num_jobs=0, cores=8), parallel_jobs(2, 4, cores=1)
    (3, 7, 2)
    """
    cores = cores or num_cores()
    at_once = n_jobs if n_jobs > 0 else max(1, cores + 1 + n_jobs)
    return min(at_once, num_jobs or at_once)


@contextmanager
def shared_cores(num_parallel: int) -> Iterator[None]:
    """Let the processes started meanwhile compute with their share of the cores, unless the user said how many."""
    if num_parallel == 1 or THREADS in os.environ:
        yield
        return
    os.environ[THREADS] = str(max(1, num_cores() // num_parallel))  # read by PyTorch when it is imported there
    try:
        yield
    finally:
        del os.environ[THREADS]
