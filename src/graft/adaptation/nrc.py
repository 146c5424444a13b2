"""NRC: predictions that agree with those of neighbours, the more so of reciprocal ones."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softmax

from graft.adaptation.bank import Bank, bank_for
from graft.adaptation.base import Adaptation
from graft.adaptation.shot_im import diversity
from graft.errors import UserError
from graft.regularisers.base import Beginning, Step, Term, check_weights, full_precision


@dataclass(frozen=True)
class NRC(Adaptation):
    """Draws the prediction of each image to those of its neighbours and their neighbours, and keeps classes varied.

    Yang et al., "Exploiting the intrinsic neighborhood structure for source-free domain adaptation", NeurIPS 2021.
    As in the authors' published code, an image counts among the neighbours of its neighbours,
    and there is no term of its own for it. Features and probabilities of the target's images are kept in
    a bank, as the steps made them; images not seen so far are nobody's neighbours.

    Args:
        weight, gamma: of the whole term.
        num_neighbours: K, of each image.
        num_expanded: M, of each neighbour.
        affinity: of neighbours that do not count the image among their own M, and of all expanded ones.
    """

    source_free: ClassVar[bool] = True

    num_neighbours: int = 5
    num_expanded: int = 5
    affinity: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(affinity=self.affinity)
        for name in ("num_neighbours", "num_expanded"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}; expected 1 or more")

    def begin(self, beginning: Beginning) -> Term:
        """With an empty bank."""
        return _NRCTerm(self, bank_for(beginning))


class _NRCTerm(Term):
    def __init__(self, settings: NRC, bank: Bank) -> None:
        super().__init__()
        self.settings = settings
        self.bank = bank

    def forward(self, step: Step) -> Tensor:
        target = step.required_target()
        p = softmax(full_precision(target.outputs.logits), dim=1)
        features = target.outputs.features.detach()
        self.bank.put(target.positions, features, p.detach())
        agreement = (p * self._targets(features, target.positions).to(p.dtype)).sum(dim=1).mean()
        return -self.settings.ramp(step.progress) * (agreement + diversity(target.outputs.logits))

    @torch.no_grad()
    def _targets(self, features: Tensor, positions: Tensor) -> Tensor:
        """Probabilities of neighbours and theirs, summed with their affinities: [n, k]."""
        affinity = self.settings.affinity
        near = self.bank.nearest(features, positions, self.settings.num_neighbours)  # [n, K]
        expanded = self.bank.nearest(self.bank.features[near.positions], near.positions, self.settings.num_expanded)
        counted = expanded.there & near.there[..., None]  # [n, K, M]
        reciprocal = ((expanded.positions == positions[:, None, None]) & counted).any(dim=2)
        weights = (affinity + (1.0 - affinity) * reciprocal.to(self.bank.p.dtype)) * near.there
        of_near = (self.bank.p[near.positions] * weights[..., None]).sum(dim=1)
        return of_near + affinity * (self.bank.p[expanded.positions] * counted[..., None]).sum(dim=(1, 2))
