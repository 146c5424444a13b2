"""DANN: features by which a discriminator cannot tell the domains apart."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graft.adaptation.base import Adaptation
from graft.adaptation.discriminator import Discriminator, domain_loss
from graft.adaptation.reversal import reverse
from graft.regularisers.base import Beginning, Need, Step, Term


@dataclass(frozen=True)
class DANN(Adaptation):
    """A discriminator learns the domain of features, and by gradient reversal the features learn against it.

    Ganin et al., "Domain-adversarial training of neural networks", JMLR 2016, section 4.2. The weight and its ramp
    are those of the reversal: the discriminator's own gradient is not scaled.

    Args:
        num_hidden: width of the discriminator's two hidden layers.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"trained_features"})

    gamma: float | None = 10.0
    num_hidden: int = 256

    def begin(self, beginning: Beginning) -> Term:
        """With a discriminator whose initial weights are drawn from the stage's seed."""
        num_features = beginning.network.head.num_features
        return _DANNTerm(self, Discriminator(num_features, self.num_hidden, beginning.seed, "dann"))


class _DANNTerm(Term):
    def __init__(self, settings: DANN, discriminator: Discriminator) -> None:
        super().__init__()
        self.settings = settings
        self.discriminator = discriminator

    def forward(self, step: Step) -> Tensor:
        coefficient = self.settings.ramp(step.progress)
        source, target = step.outputs.features, step.required_target().outputs.features
        return domain_loss(*(self.discriminator(reverse(features, coefficient)) for features in (source, target)))
