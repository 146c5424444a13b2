"""EATA: test-time entropy minimisation on images that are reliable and not redundant, without forgetting."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import cosine_similarity, cross_entropy, softmax

from graft.adaptation.entropy import entropies
from graft.after.online import Deployed, OnlineByNorms, Predictor, norm_parameters, normalise_by_batch
from graft.features import Inference
from graft.models.network import Network
from graft.regularisers.base import full_precision, some_images

MOMENTUM = 0.9  # share of the mean prediction that remains in each batch


def reliable_weights(logits: Tensor, margin: float) -> Tensor:
    """exp(E0 - H) where the entropy H of softmax(logits [n, k]) is below E0 = `margin` * ln k, else 0: [n].

    Niu et al., "Efficient test-time model adaptation without forgetting", ICML 2022, equation 3; no gradient is taken.
    """
    largest = margin * math.log(logits.shape[1])
    entropy = entropies(logits.detach())
    return torch.exp(largest - entropy) * (entropy < largest)


def is_different(p: Tensor, mean: Tensor | None, redundancy: float) -> Tensor:
    """Whether the cosine of probabilities [n, k] with a mean [k] is below `redundancy`, [n]; all where there is none.

    Niu et al., ICML 2022, equation 5.
    """
    if mean is None:
        return torch.ones(len(p), dtype=torch.bool, device=p.device)
    return cosine_similarity(mean[None], p, dim=1).abs() < redundancy


def fisher_of(network: Network, parameters: list[Parameter], images: Iterable[Tensor]) -> list[Tensor]:
    """Mean over images of (d CE(z, argmax z) / d w)^2, in the shape of each of the parameters w.

    Niu et al., ICML 2022, equation 7, whose labels are the network's own predictions. Images are [1, c, h, w] each.
    """
    totals = [torch.zeros_like(parameter) for parameter in parameters]
    num_images = 0
    for image in images:
        logits = full_precision(network(image))
        loss = cross_entropy(logits, logits.argmax(dim=1))
        for total, gradient in zip(totals, torch.autograd.grad(loss, parameters), strict=True):
            total += gradient.square()
        num_images += 1
    return [total / num_images for total in totals]


@dataclass(frozen=True)
class EATA(OnlineByNorms):
    """TENT on chosen images, with norm parameters held the more the more they matter to the network as trained.

    Niu et al., ICML 2022, equation 8: the mean over the chosen images of w_i H(softmax(z_i)), plus `fisher_weight`
    times the sum of F (w - w0)^2. Chosen is what is reliable (equation 3) and different from the mean of what was
    chosen before (equations 4 and 5); a batch without such an image gives no step. The Fisher information is that of
    images that the network was trained on, whose labels are not looked at, under its running statistics.

    Args:
        margin: of reliable entropies, in shares of ln k.
        redundancy: cosine from which on a prediction says nothing new.
        fisher_weight: beta in the paper, where it is 1 for CIFAR-10 and 2000 for ImageNet.
        num_fisher: images that the Fisher information is estimated from.
    """

    margin: float = 0.4
    redundancy: float = 0.4
    fisher_weight: float = 1.0
    num_fisher: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.fisher_weight < math.inf:
            raise self.unfit("fisher_weight", "0 or more")
        for name in ("margin", "redundancy"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise self.unfit(name, "a number above 0 and at most 1")
        if self.num_fisher < 1:
            raise self.unfit("num_fisher", "1 or more")

    def begin(self, deployed: Deployed) -> Predictor:
        """With the Fisher information of the network as it was trained."""
        network = deployed.network
        parameters = norm_parameters(network)
        for parameter in parameters:
            parameter.requires_grad_()
        how = Inference(deployed.device, network.dtype)
        images = some_images(deployed.training_domain, self.num_fisher, how).x
        fisher = fisher_of(network, parameters, images.split(1))
        normalise_by_batch(network)
        return _EATA(self, deployed, parameters, fisher)


class _EATA:
    def __init__(self, settings: EATA, deployed: Deployed, parameters: list[Parameter], fisher: list[Tensor]) -> None:
        self.settings = settings
        self.deployed = deployed
        self.parameters = parameters
        self.start = [parameter.detach().clone() for parameter in parameters]
        self.fisher = fisher
        self.optimizer = torch.optim.Adam(parameters, lr=settings.lr)
        self.mean: Tensor | None = None  # [k], of the predictions chosen so far

    def __call__(self, x: Tensor) -> Tensor:
        logits: Tensor = self.deployed.network(self.deployed.view(x))
        p = softmax(full_precision(logits.detach()), dim=1)
        weights = reliable_weights(logits, self.settings.margin)
        chosen = (weights > 0) & is_different(p, self.mean, self.settings.redundancy)
        if chosen.any():
            self.optimizer.zero_grad()
            loss = (weights * entropies(logits))[chosen].mean() + self.settings.fisher_weight * self._distance()
            loss.backward()
            self.optimizer.step()
            mean = p[chosen].mean(dim=0)
            self.mean = mean if self.mean is None else MOMENTUM * self.mean + (1.0 - MOMENTUM) * mean
        return logits

    def _distance(self) -> Tensor:
        """The sum of F (w - w0)^2, a scalar."""
        triples = zip(self.fisher, self.parameters, self.start, strict=True)
        return torch.stack([(f * (w - start).square()).sum() for f, w, start in triples]).sum()
