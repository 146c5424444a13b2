"""ADDA: the target's features become like those that the source's network made of the source."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import softplus

from graft.adaptation.discriminator import Adversarial, Discriminator, domain_accuracy, domain_loss
from graft.regularisers.base import Beginning, Need, Step, Term


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

    def begin(self, beginning: Beginning) -> Term:
        """With a discriminator whose initial weights are drawn from the stage's seed."""
        num_features = beginning.network.head.num_features
        return _ADDATerm(self, self.discriminator(num_features, beginning.seed))


class _ADDATerm(Term):
    def __init__(self, settings: ADDA, discriminator: Discriminator) -> None:
        super().__init__()
        self.settings = settings
        self.discriminator = discriminator

    def forward(self, step: Step) -> Tensor:
        assert step.start is not None
        target = step.required_target().outputs.features
        both = self.discriminator(step.start.features), self.discriminator(target.detach())
        self.figures = {"domain_accuracy": domain_accuracy(*both)}
        return domain_loss(*both) + self.settings.ramp(step.progress) * fooling_loss(self.discriminator, target)
