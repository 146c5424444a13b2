"""Deep CORAL: source and target features get the same covariance."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from graft.adaptation.base import ALIGNS, Adaptation
from graft.errors import UserError
from graft.regularisers.base import Need, Step, full_precision


def covariance(features: Tensor) -> Tensor:
    """Unbiased covariance [d, d] of features [n, d], in float32 at least.

    Raises:
        UserError: fewer than two samples have none.
    """
    if len(features) < 2:
        raise UserError(f"coral: {len(features)} sample in a batch; a covariance needs 2 or more: raise batch_size")
    centred = full_precision(features)
    centred = centred - centred.mean(dim=0)
    return centred.T @ centred / (len(features) - 1)


def coral(source: Tensor, target: Tensor) -> Tensor:
    """||C_s - C_t||_F^2 / (4 d^2), a scalar, of features [n_s, d] and [n_t, d].

    Sun and Saenko, "Deep CORAL", ECCV 2016 workshops, equation 1.
    """
    return (covariance(source) - covariance(target)).square().sum() / (4 * source.shape[1] ** 2)


@dataclass(frozen=True)
class DeepCORAL(Adaptation):
    """Aligns the covariances of the features that the head is given."""

    closed_set: ClassVar[str] = ALIGNS
    needs: ClassVar[frozenset[Need]] = frozenset({"trained_features"})

    def loss(self, step: Step) -> Tensor:
        """`coral` of the two domains' features."""
        return coral(step.outputs.features, step.required_target().outputs.features)
