"""NRC: predictions that agree with those of neighbours, the more so of reciprocal ones."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softmax

from graft.adaptation.bank import Bank, BankTerm, Neighbourly, bank_for, check_numbers
from graft.adaptation.base import SPREADS
from graft.adaptation.shot_im import diversity
from graft.regularisers.base import Beginning, Step, Term, check_weights, full_precision

NONE = -1  # in the place of a neighbour that is not there


@dataclass(frozen=True)
class NRC(Neighbourly):
    """Draws the prediction of each image to those of its neighbours and their neighbours, and keeps classes varied.

    Yang et al., "Exploiting the intrinsic neighborhood structure for source-free domain adaptation", NeurIPS 2021.
    As in the authors' published code, an image counts among the neighbours of its neighbours,
    and there is no term of its own for it. Features and probabilities of the target's images are kept in
    a bank, as the steps made them; images not seen so far are nobody's neighbours. Where that code searches for the
    neighbours of each neighbour in every step, here they are those that it had when it was in a batch itself, which
    spares all searches but one.

    Args:
        weight, gamma: of the whole term.
        num_neighbours: K.
        num_expanded: M, of each neighbour.
        affinity: of neighbours that do not count the image among their own M, and of all expanded ones.
    """

    closed_set: ClassVar[str] = SPREADS
    source_free: ClassVar[bool] = True

    num_expanded: int = 5
    affinity: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(affinity=self.affinity)
        check_numbers(num_expanded=self.num_expanded)

    def begin(self, beginning: Beginning) -> Term:
        """With an empty bank."""
        return _NRCTerm(self, bank_for(beginning))


class _NRCTerm(BankTerm):
    settings: NRC

    def __init__(self, settings: NRC, bank: Bank) -> None:
        super().__init__(settings, bank)
        self.register_buffer("neighbours", torch.full((len(bank.seen), settings.num_expanded), NONE))  # [N, M]
        self.neighbours: Tensor

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
        num_near, affinity = self.settings.num_neighbours, self.settings.affinity
        found = self.bank.nearest(features, positions, max(num_near, self.settings.num_expanded))
        kept = found.positions.masked_fill(~found.there, NONE)
        lists = kept[:, : self.neighbours.shape[1]]
        self.neighbours[positions, : lists.shape[1]] = lists
        near = kept[:, :num_near]  # [n, K]
        there = near != NONE
        expanded = self.neighbours[near].masked_fill(~there[..., None], NONE)  # [n, K, M]
        reciprocal = (expanded == positions[:, None, None]).any(dim=2)
        weights = (affinity + (1.0 - affinity) * reciprocal.to(self.bank.p.dtype)) * there
        of_near = (self.bank.p[near] * weights[..., None]).sum(dim=1)
        return of_near + affinity * (self.bank.p[expanded] * (expanded != NONE)[..., None]).sum(dim=(1, 2))
