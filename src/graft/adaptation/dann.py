"""DANN: features by which a discriminator cannot tell the domains apart."""

from dataclasses import dataclass

from torch import Tensor

from graft.adaptation.discriminator import Adversarial, Discriminator, domain_accuracy, domain_loss
from graft.adaptation.reversal import reverse
from graft.regularisers.base import Beginning, Step, Term


@dataclass(frozen=True)
class DANN(Adversarial):
    """A discriminator learns the domain of features, and by gradient reversal the features learn against it.

    Ganin et al., "Domain-adversarial training of neural networks", JMLR 2016, section 4.2. The weight and its ramp
    are those of the reversal: the discriminator's own gradient is not scaled.
    """

    def begin(self, beginning: Beginning) -> Term:
        """With a discriminator whose initial weights are drawn from the stage's seed."""
        num_features = beginning.network.head.num_features
        return _DANNTerm(self, self.discriminator(num_features, beginning.seed))


class _DANNTerm(Term):
    def __init__(self, settings: DANN, discriminator: Discriminator) -> None:
        super().__init__()
        self.settings = settings
        self.discriminator = discriminator

    def forward(self, step: Step) -> Tensor:
        coefficient = self.settings.ramp(step.progress)
        both = step.outputs.features, step.required_target().outputs.features
        source, target = (self.discriminator(reverse(features, coefficient)) for features in both)
        self.figures = {"domain_accuracy": domain_accuracy(source, target)}
        return domain_loss(source, target)
