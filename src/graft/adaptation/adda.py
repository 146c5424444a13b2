"""ADDA: the target's features become like those that the source's network made of the source."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import softplus

from graft.adaptation.discriminator import Adversarial, Discriminator, domain_accuracy, domain_loss
from graft.regularisers.base import Need, Step


def fooling_loss(discriminator: Discriminator, features: Tensor) -> Tensor:
    """Mean of -log D(f), a scalar, of the target's features [n, d], with D the probability that they are the source's.

    Tzeng et al., "Adversarial discriminative domain adaptation", CVPR 2017: inverted labels, not a reversed gradient.
    The discriminator takes no gradient of it.
    """
    fixed = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    logits = functional_call(discriminator, fixed, features)
    return softplus(-logits).mean()


@dataclass(frozen=True)
class ADDA(Adversarial):
    """A discriminator tells the source's features, as the stage began, from the target's, which learn to fool it.

    Tzeng et al., CVPR 2017, with the steps of discriminator and features taken at the same time. In the paper nothing
    else trains the target's features; here the objective goes on training them on the source's labels. The weight is
    that of what the features learn; the discriminator's loss is not scaled.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"trained_features", "starting_network"})

    def adversarial_loss(self, step: Step, discriminator: Discriminator) -> tuple[Tensor, dict[str, Tensor]]:
        """`domain_loss` of the discriminator plus the weighted `fooling_loss` of the features."""
        assert step.start is not None
        target = step.required_target().outputs.features
        both = discriminator.of_both(step.start.features, target.detach())
        loss = domain_loss(*both) + self.ramp(step.progress) * fooling_loss(discriminator, target)
        return loss, {"domain_accuracy": domain_accuracy(*both)}
