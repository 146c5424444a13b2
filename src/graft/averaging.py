"""Averages of networks' weights: a point between two states, the mean of many."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graft.errors import UserError

State = dict[str, Tensor]  # a network's parameters and buffers by name

STATISTICS = ("running_mean", "running_var")


def weighted(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """The average of states under weights from 0 on, of which one at least is above 0.

    With equal weights it is a uniform soup (Wortsman et al., "Model soups", ICML 2022), with 1 - alpha and alpha a
    point between two states (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022, equation 1).

    Sums are taken in float64 and given in the states' own types; a state that alone has weight comes out bit for bit.
    What is not a floating-point number, such as a counter of batches, is that of the last state that has weight.

    Raises:
        UserError: the states are not those of one network.
    """
    check_alike(states)
    used = [(state, weight) for state, weight in zip(states, weights, strict=True) if weight]
    if len(used) == 1:
        return {name: tensor.clone() for name, tensor in used[0][0].items()}
    total = sum(weight for _, weight in used)
    averaged = {}
    for name, last in used[-1][0].items():
        if last.is_floating_point():
            sums = torch.zeros_like(last, dtype=torch.float64)
            for state, weight in used:
                sums += weight * state[name].double()
            averaged[name] = (sums / total).to(last.dtype)
        else:
            averaged[name] = last.clone()
    return averaged


def check_alike(states: Sequence[State]) -> None:
    """Refuse to average the weights of different networks.

    Raises:
        UserError: names, shapes or types differ, the first few of which are named.
    """
    first, *others = ({name: (tuple(t.shape), t.dtype) for name, t in state.items()} for state in states)
    for other in others:
        different = sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
        if different:
            more = f" and {len(different) - 3} more" if len(different) > 3 else ""
            raise UserError(
                f"weights of different networks cannot be averaged; they differ in {', '.join(different[:3])}{more}"
            )


def statistics_differ(states: Sequence[State]) -> bool:
    """Whether the states differ in running statistics of a normalisation layer."""
    names = [name for name in states[0] if name.rpartition(".")[2] in STATISTICS]
    return any(not torch.equal(states[0][name], state[name]) for state in states[1:] for name in names)
