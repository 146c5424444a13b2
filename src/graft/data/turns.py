"""Orders in which groups of samples take turns, so that every batch holds equally many of each."""

from collections.abc import Sequence

import numpy as np

from graft.seeds import stable_seed


def in_turns(groups: Sequence[np.ndarray], seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: positions int64 [n], in which the groups come one after the other, again and again.

    However the order is cut into batches, the numbers of samples of any two groups in a batch differ by one at most.
    Samples of small groups come several times in an epoch, those of large ones in some epochs only: each group is gone
    through whole, in another order each time, before any of its samples comes again.

    Args:
        groups: what each sample belongs to, int [n]. The first array's groups take turns; within each of them, those
            of the second do, and so on.
        seed: what the orders are drawn from.
        epoch: counted from 0. An epoch goes on where those before it left each group, give or take one sample.
    """
    num = len(groups[0])
    return _turns(np.arange(num), groups, num, num, seed, epoch)


def _turns(
    positions: np.ndarray, groups: Sequence[np.ndarray], num: int, fewest: int, seed: int, epoch: int
) -> np.ndarray:
    """`num` of the positions, where an epoch takes `fewest` or one more."""
    if not groups:
        return _in_rounds(positions, epoch * fewest, num, seed)
    labels = groups[0][positions]
    present = np.unique(labels)
    fewest = max(1, fewest // len(present))
    order = np.empty(num, dtype=np.int64)
    for place, group in enumerate(np.random.default_rng(stable_seed(seed, "turns", epoch)).permutation(present)):
        slots = order[place :: len(present)]
        slots[:] = _turns(
            positions[labels == group], groups[1:], len(slots), fewest, stable_seed(seed, int(group)), epoch
        )
    return order


def _in_rounds(positions: np.ndarray, start: int, num: int, seed: int) -> np.ndarray:
    """Samples `start` to `start + num` of an endless sequence of permutations of the positions."""
    first, last = start // len(positions), (start + num) // len(positions)
    rounds = [
        np.random.default_rng(stable_seed(seed, "round", number)).permutation(positions)
        for number in range(first, last + 1)
    ]
    begin = start - first * len(positions)
    return np.concatenate(rounds)[begin : begin + num]
