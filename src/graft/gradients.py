"""Which layer groups the target pulls at most."""

from functools import reduce
from itertools import islice
from operator import add

import torch
from torch import Tensor

from graft.data.domain import Domain
from graft.features import Inference, in_eval_mode, view_of
from graft.models.network import Network
from graft.objectives.supervised import Objective, Outputs

NUM_BATCHES = 16  # of the domain's order that are looked at


def relative_gradient_norms(
    network: Network, domain: Domain, objective: Objective, how: Inference, seed: int
) -> dict[str, float]:
    """||g|| / ||w|| for each layer group of the backbone with parameters w, by its name, from input to output.

    g is the gradient of the objective's mean over training batches under the evaluation view, with the network in eval
    mode (relative gradient norm; Lee et al., "Surgical Fine-Tuning", ICLR 2023, section 4). Nothing is changed.
    What an adapter keeps as it is does not count.
    """
    fixed = network.fixed_names
    groups: dict[str, list[torch.nn.Parameter]] = {}
    for name, group, parameter in network.named_group_parameters():
        if group.startswith("backbone.") and name not in fixed:
            groups.setdefault(group.removeprefix("backbone."), []).append(parameter)
    trained = {parameter: parameter.requires_grad for parameters in groups.values() for parameter in parameters}
    domain.begin(seed, first_epoch=0)
    with in_eval_mode(network, how.device), torch.enable_grad():
        for parameter in trained:
            parameter.requires_grad_(True)
        gradients = _mean_gradients(network, list(trained), domain, objective, how)
        for parameter, before in trained.items():
            parameter.requires_grad_(before)
    by_parameter = dict(zip(trained, gradients, strict=True))
    return {
        name: _norm([by_parameter[parameter] for parameter in parameters]) / max(_norm(parameters), 1e-12)
        for name, parameters in groups.items()
    }


def _mean_gradients(
    network: Network, parameters: list[torch.nn.Parameter], domain: Domain, objective: Objective, how: Inference
) -> list[Tensor]:
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    num_samples = 0
    for batch in islice(domain.loader("train", shuffle=True), NUM_BATCHES):
        x = view_of(domain, batch, how)
        with how.context():
            features = network.features(x)
            terms = objective(Outputs(network.head(features), features), batch.y.to(how.device), 0.0)
        total = reduce(add, terms.values()) * len(x)
        num_samples += len(x)
        for so_far, gradient in zip(sums, torch.autograd.grad(total, parameters, allow_unused=True), strict=True):
            if gradient is not None:
                so_far += gradient
    return [gradient / num_samples for gradient in sums]


def _norm(tensors: list[Tensor] | list[torch.nn.Parameter]) -> float:
    """The length of several tensors as one vector."""
    return float(torch.stack([tensor.detach().double().cpu().square().sum() for tensor in tensors]).sum().sqrt())
