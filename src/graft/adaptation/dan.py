"""DAN: source and target features get the same mean under several kernels."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from graft.adaptation.base import ALIGNS, Adaptation
from graft.adaptation.mmd import mmd, multi_kernel
from graft.regularisers.base import Need, Step


@dataclass(frozen=True)
class DAN(Adaptation):
    """Minimises the multi-kernel maximum mean discrepancy of the features that the head is given.

    Long et al., "Learning transferable features with deep adaptation networks", ICML 2015, for the last layer of
    features.
    """

    closed_set: ClassVar[str] = ALIGNS
    needs: ClassVar[frozenset[Need]] = frozenset({"trained_features"})

    weight: float = 5.0
    gamma: float | None = 10.0

    def loss(self, step: Step) -> Tensor:
        """`mmd` of the two domains' features under a `multi_kernel`."""
        source, target = step.outputs.features, step.required_target().outputs.features
        return mmd(multi_kernel(torch.cat([source, target])), len(source))
