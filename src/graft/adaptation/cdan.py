"""CDAN and CDAN+E: a discriminator that sees features together with the predictions on them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softmax

from graft.adaptation.discriminator import Adversarial, Discriminator, domain_accuracy, domain_loss
from graft.adaptation.entropy import entropies
from graft.adaptation.reversal import reverse
from graft.models.network import initial_weights
from graft.objectives.supervised import Outputs
from graft.regularisers.base import Beginning, Fixed, Step, Term, full_precision

LARGEST = 4096  # outputs of the multilinear map that are not replaced by random projections
NUM_PROJECTIONS = 1024  # as in the authors' experiments


class MultilinearMap(nn.Module):
    """Features f [n, d] and probabilities g [n, k] to f ⊗ g [n, d k], or to 1024 random projections of it.

    Long et al., "Conditional adversarial domain adaptation", NeurIPS 2018, section 3.1: where d k is above 4096,
    (R_f f) * (R_g g) / sqrt(1024) by elements, with fixed standard normal R_f and R_g.
    """

    def __init__(self, num_features: int, num_classes: int, seed: int) -> None:
        super().__init__()
        self.projections: Fixed | None = None
        self.num_outputs = num_features * num_classes
        if self.num_outputs > LARGEST:
            self.num_outputs = NUM_PROJECTIONS
            with initial_weights(seed, "cdan projections"):
                projections = {"f": torch.randn(num_features, NUM_PROJECTIONS)}
                projections["g"] = torch.randn(num_classes, NUM_PROJECTIONS)
            self.projections = Fixed(projections)

    def forward(self, f: Tensor, g: Tensor) -> Tensor:
        """What the discriminator sees."""
        if self.projections is None:
            return (f[:, :, None] * g[:, None, :]).flatten(1)
        projected_f, projected_g = self.projections["f"], self.projections["g"]
        return (f.to(projected_f.dtype) @ projected_f) * (g.to(projected_g.dtype) @ projected_g) / NUM_PROJECTIONS**0.5


def entropy_weights(logits: Tensor, coefficient: float) -> Tensor:
    """1 + exp(-H) of the entropies H of softmax(logits [n, k]), scaled to mean 1: [n].

    Long et al., 2018, section 3.2. What makes the predictions learns the weights by gradient reversal, as it does all
    that the discriminator is trained on; the scale takes no gradient.
    """
    weights = 1.0 + torch.exp(-reverse(entropies(logits), coefficient))
    return weights / weights.mean().detach()


@dataclass(frozen=True)
class CDAN(Adversarial):
    """DANN whose discriminator is given the product of each feature and each class probability.

    Long et al., NeurIPS 2018. The weight and its ramp are those of the reversal. As in the authors' code, the
    probabilities in the product take no gradient.

    Args:
        entropy: samples that are surely classified count up to twice as much as others (CDAN+E).
    """

    entropy: bool = False

    def begin(self, beginning: Beginning) -> Term:
        """With projections and a discriminator that are drawn from the stage's seed."""
        head = beginning.network.head
        product = MultilinearMap(head.num_features, head.num_classes, beginning.seed)
        return _CDANTerm(self, product, self.discriminator(product.num_outputs, beginning.seed))


class _CDANTerm(Term):
    def __init__(self, settings: CDAN, product: MultilinearMap, discriminator: Discriminator) -> None:
        super().__init__()
        self.settings = settings
        self.product = product
        self.discriminator = discriminator

    def forward(self, step: Step) -> Tensor:
        coefficient = self.settings.ramp(step.progress)
        both = step.outputs, step.required_target().outputs
        source, target = self.discriminator.of_both(*(self._inputs(outputs, coefficient) for outputs in both))
        self.figures = {"domain_accuracy": domain_accuracy(source, target)}
        if not self.settings.entropy:
            return domain_loss(source, target)
        return domain_loss(
            source, target, (entropy_weights(both[0].logits, coefficient), entropy_weights(both[1].logits, coefficient))
        )

    def _inputs(self, outputs: Outputs, coefficient: float) -> Tensor:
        probabilities = softmax(full_precision(outputs.logits.detach()), dim=1)
        features = full_precision(reverse(outputs.features, coefficient))
        inputs: Tensor = self.product(features, probabilities)
        return inputs
