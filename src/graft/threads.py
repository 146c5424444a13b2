"""How many threads pay."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from graft.experiment import Experiment

# Below so much arithmetic for each of them, threads wait for one another longer than they work, and on a machine that
# has other work to do very much longer.
FLOP_PER_THREAD = 1e9


@contextmanager
def paying_threads(experiment: Experiment) -> Iterator[None]:
    """Let torch use no more threads than pay (`use_paying_threads`), and as many as before afterwards."""
    before = torch.get_num_threads()
    use_paying_threads(experiment)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_paying_threads(experiment: Experiment) -> None:
    """Let torch use no more threads than pay for a training step, on a CPU; a matter of the network's size alone.

    Nothing changes while a batch size is still to be found.
    """
    batch_sizes = [domain.batch_size for domain in (experiment.source, experiment.target) if domain is not None]
    if experiment.transfer.device.type == "cpu" and 0 not in batch_sizes:
        torch.set_num_threads(threads_for(max(batch_sizes), forward_flop(experiment)))


def threads_for(batch_size: int, forward_flop: int) -> int:
    """How many of the threads there are pay, where features of one sample take so many floating-point operations."""
    flop = 3 * batch_size * forward_flop  # backward costs twice what forward does
    return max(1, min(torch.get_num_threads(), round(flop / FLOP_PER_THREAD)))


def forward_flop(experiment: Experiment) -> int:
    """Floating-point operations for the features of one sample."""
    description = json.dumps(experiment.config["backbone"], sort_keys=True)
    if description not in _counted:
        _counted[description] = _count(experiment)
    return _counted[description]


_counted: dict[str, int] = {}  # by what decides the network, for the runs of a sweep


def _count(experiment: Experiment) -> int:
    with torch.random.fork_rng():
        backbone = experiment.backbone().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(backbone.preprocessing.blank(1))
    total: int = counter.get_total_flops()
    return total
