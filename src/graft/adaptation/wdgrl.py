"""WDGRL: features of little Wasserstein distance between the domains."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from graft.adaptation.discriminator import Adversarial, Discriminator
from graft.adaptation.reversal import reverse
from graft.regularisers.base import Step, check_weights, full_precision


def gradient_penalty(critic: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """Mean of (||gradient of the critic|| - 1)^2 at points [n, d], a scalar; the points take no gradient of it.

    Gulrajani et al., "Improved training of Wasserstein GANs", NIPS 2017, equation 3.
    """
    points = points.detach().requires_grad_()
    [gradients] = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    return (torch.linalg.vector_norm(gradients, dim=1) - 1.0).square().mean()


def penalised_points(source: Tensor, target: Tensor) -> Tensor:
    """Features [n_s, d] and [n_t, d] with points drawn between pairs of them: [n_s + n_t + min(n_s, n_t), d].

    Shen et al., "Wasserstein distance guided representation learning for domain adaptation", AAAI 2018.
    The global generator says where between the two of a pair.
    """
    num = min(len(source), len(target))
    shares = torch.rand(num, 1, dtype=source.dtype, device=source.device)
    return torch.cat([source, target, torch.lerp(target[:num], source[:num], shares)])


@dataclass(frozen=True)
class WDGRL(Adversarial):
    """A critic of bounded slope estimates the Wasserstein distance of the features, which learn to make it small.

    Shen et al., AAAI 2018. The paper trains the critic for several steps between two of the features; here both take
    one, by gradient reversal, whose coefficient is the weight. The term is penalty * (gradient penalty) minus the
    estimated distance, and the features take no gradient of the penalty.

    Args:
        penalty: of critics whose gradients have norms other than 1.
    """

    weight: float = 0.01
    gamma: float | None = None
    penalty: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(penalty=self.penalty)

    def adversarial_loss(self, step: Step, discriminator: Discriminator) -> tuple[Tensor, dict[str, Tensor]]:
        """Penalty times `gradient_penalty` minus the distance, with the discriminator as the critic."""
        both = step.outputs.features, step.required_target().outputs.features
        source, target = (full_precision(features) for features in both)
        coefficient = self.ramp(step.progress)
        on_source, on_target = discriminator.of_both(reverse(source, coefficient), reverse(target, coefficient))
        distance = on_source.mean() - on_target.mean()
        loss = self.penalty * gradient_penalty(discriminator, penalised_points(source, target)) - distance
        return loss, {"wasserstein_distance": distance.detach()}
