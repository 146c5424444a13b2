"""ADDA: the target's features become like those that the source's network made of the source."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import softplus

from graft.adaptation.base import Adaptation
from graft.adaptation.discriminator import Discriminator, domain_loss
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
class ADDA(Adaptation):
    """A discriminator tells the source's features, as the stage began, from the target's, which learn to fool it.

    Tzeng et al., CVPR 2017, with the steps of discriminator and features taken at the same time. In the paper nothing
    else trains the target's features; here the objective goes on training them on the source's labels. The weight is
    that of what the features learn; the discriminator's loss is not scaled.

    Args:
        num_hidden: width of the discriminator's two hidden layers.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"trained_features", "starting_network"})

    gamma: float | None = 10.0
    num_hidden: int = 256

    def begin(self, beginning: Beginning) -> Term:
        """With a discriminator whose initial weights are drawn from the stage's seed."""
        num_features = beginning.network.head.num_features
        return _ADDATerm(self, Discriminator(num_features, self.num_hidden, beginning.seed, "adda"))


class _ADDATerm(Term):
    def __init__(self, settings: ADDA, discriminator: Discriminator) -> None:
        super().__init__()
        self.settings = settings
        self.discriminator = discriminator

    def forward(self, step: Step) -> Tensor:
        assert step.start is not None
        target = step.required_target().outputs.features
        told_apart = domain_loss(self.discriminator(step.start.features), self.discriminator(target.detach()))
        return told_apart + self.settings.ramp(step.progress) * fooling_loss(self.discriminator, target)
