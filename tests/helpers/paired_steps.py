"""Steps on labelled source and unlabelled target features that are drawn, not computed from images."""

from typing import Any

import torch
from builders import network
from conf_plugins import build, load
from torch import Tensor

from graft.adaptation.base import Adaptation
from graft.features import Inference
from graft.models.network import Network
from graft.objectives.supervised import Outputs
from graft.regularisers.base import Beginning, Step, Term, Trace, Unlabelled

NUM_FEATURES = 84  # of `cnn`, which gives drawn features their head


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def method(name: str, **changed: Any) -> Adaptation:
    return build(load("adaptation", name)[name] | changed)


def begun(settings: Adaptation, net: Network) -> Term:
    domain: Any = None
    term = settings.begin(Beginning(net, domain, None, Inference(torch.device("cpu")), seed=0))
    assert term is not None
    return term.to(net.dtype)


def step_on(net: Network, source: Tensor, target: Tensor, progress: float = 1.0) -> Step:
    """Source features [n_s, d] of labels 0, 1, 2, 0, ..., target features [n_t, d], and the head's logits of both."""
    both = [Outputs(net.head(features.to(net.dtype)), features) for features in (source, target)]
    unlabelled = Unlabelled(both[1], torch.arange(len(target)), target)
    start = Trace(source.detach() + 0.5, source.detach() + 0.5, {})
    y = torch.arange(len(source)) % net.head.num_classes
    return Step(net, y, both[0], Trace(source, source, {}), start, target=unlabelled, progress=progress)


def leaves(num_source: int = 6, num_target: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Features of both domains that take gradients; the target's are shifted."""
    source = drawn(num_source, NUM_FEATURES, seed=1, dtype=dtype)
    target = drawn(num_target, NUM_FEATURES, seed=2, dtype=dtype) + 0.3
    return source.requires_grad_(), target.requires_grad_()


def double_network() -> Network:
    return network("cnn").double()
