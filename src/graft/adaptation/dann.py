"""DANN: features by which a discriminator cannot tell the domains apart."""

from dataclasses import dataclass

from torch import Tensor

from graft.adaptation.discriminator import Adversarial, Discriminator, domain_accuracy, domain_loss
from graft.adaptation.reversal import reverse
from graft.regularisers.base import Step


@dataclass(frozen=True)
class DANN(Adversarial):
    """A discriminator learns the domain of features, and by gradient reversal the features learn against it.

    Ganin et al., "Domain-adversarial training of neural networks", JMLR 2016, section 4.2. The weight and its ramp
    are those of the reversal: the discriminator's own gradient is not scaled.
    """

    def adversarial_loss(self, step: Step, discriminator: Discriminator) -> tuple[Tensor, dict[str, Tensor]]:
        """`domain_loss` of the discriminator, whose gradient the features get reversed."""
        coefficient = self.ramp(step.progress)
        both = step.outputs.features, step.required_target().outputs.features
        source, target = discriminator.of_both(*(reverse(features, coefficient) for features in both))
        return domain_loss(source, target), {"domain_accuracy": domain_accuracy(source, target)}
