"""EWC: elastic weight consolidation, weighted by what mattered on the source."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import log_softmax

from graft import __version__
from graft.errors import UserError
from graft.features import Inference, in_eval_mode
from graft.models.adapters.base import adapter_settings
from graft.models.backbones.base import Backbone
from graft.models.heads.linear import LinearHead
from graft.models.network import Network
from graft.models.weights import state_sha256
from graft.records.hashing import content_hash
from graft.regularisers.base import (
    Beginning,
    Fixed,
    Need,
    Origin,
    Regulariser,
    Step,
    Term,
    check_trained,
    check_weights,
    full_precision,
    matching_groups,
    some_images,
)
from graft.strategies.phases import ResolvedPhase

KIND, FILE = "fisher", "fisher.safetensors"


def elastic_penalty(anchored: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor | float:
    """1/2 sum F (w - w0)^2, a scalar; 0.0 without tensors.

    Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", PNAS 2017, equation 3.

    `anchored` holds triples of a parameter w, its starting point w0 and the diagonal F of the Fisher information, all
    of one shape.
    """
    total: Tensor | float = 0.0
    for weight, start, fisher in anchored:
        difference = full_precision(weight) - full_precision(start)
        total = total + (full_precision(fisher) * difference.square()).sum() / 2
    return total


def fisher_diagonal(backbone: Backbone, head: LinearHead, images: Iterable[Tensor]) -> dict[str, Tensor]:
    """Mean over images of sum_k p_k (d log p_k / d w)^2 for every parameter w of the backbone, in its shape.

    The diagonal of the Fisher information, its expectation over labels taken under the network's own probabilities p
    without sampling (Kunstner et al., "Limitations of the empirical Fisher approximation", NeurIPS 2019, equation 2).
    Gradients are of one image at a time, [1, c, h, w] each, as their squares must be.
    """
    parameters = dict(backbone.named_parameters())
    totals = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    num_images = 0
    for image in images:
        log_p = log_softmax(head(backbone(image)), dim=1)[0]
        for value in log_p:
            gradients = torch.autograd.grad(value, list(parameters.values()), retain_graph=True, allow_unused=True)
            for total, gradient in zip(totals.values(), gradients, strict=True):
                if gradient is not None:
                    total += value.detach().exp() * gradient.square()
        num_images += 1
    return {name: total / num_images for name, total in totals.items()}


@dataclass(frozen=True)
class EWC(Regulariser):
    """Draws trained parameters of the backbone to where they started, the more the more they mattered on the source."""

    needs: ClassVar[frozenset[Need]] = frozenset({"source_weights", "source_head"})

    weight: float = 1.0
    num_samples: int = 100
    groups: str = ".*"

    def __post_init__(self) -> None:
        check_weights(weight=self.weight)
        if self.num_samples < 1:
            raise UserError(f"num_samples={self.num_samples}; expected 1 or more")

    def check(self, network: Network, phases: Sequence[ResolvedPhase]) -> None:
        """The pattern matches, and something that is anchored is trained."""
        super().check(network, phases)
        check_trained(matching_groups(self.groups, network), self.groups, phases)

    def begin(self, beginning: Beginning) -> Term:
        """With the Fisher information of the source stage's network on images it was trained on."""
        origin = beginning.required_origin()
        chosen = set(matching_groups(self.groups, beginning.network))
        start = {name: p for name, group, p in beginning.network.named_group_parameters() if group in chosen}
        found = self._fisher_of(beginning.network.backbone, origin, beginning.how)
        by_identity = {id(p): f for p, f in zip(*found, strict=True)}
        fisher = {name: by_identity[id(parameter)] for name, parameter in start.items()}
        return _EWCTerm(self.weight, Fixed(start), Fixed(fisher))

    def _fisher_of(self, backbone: Backbone, origin: Origin, how: Inference) -> tuple[list[Tensor], list[Tensor]]:
        """The backbone's parameters, and the diagonal for each; from the store if it is there."""
        names = dict(backbone.named_parameters())
        key = content_hash(
            {
                "versions": [__version__, torch.__version__],
                "weights": state_sha256(backbone.state_dict() | origin.head.state_dict()),
                "backbone": [type(backbone).__qualname__, *adapter_settings(backbone)],
                "data": origin.domain.fingerprint,
                "num_samples": self.num_samples,
            }
        )
        with origin.store.held(KIND, key, lambda folder: self._write(folder, backbone, origin, how)) as folder:
            fisher = load_file(folder / FILE)
        return list(names.values()), [fisher[name] for name in names]

    def _write(self, folder: Path, backbone: Backbone, origin: Origin, how: Inference) -> None:
        images = some_images(origin.domain, self.num_samples, how).x
        with in_eval_mode(backbone, how.device):
            backbone.requires_grad_(True)
            fisher = fisher_diagonal(backbone, deepcopy(origin.head).to(images), images.split(1))
            backbone.requires_grad_(False)
        save_file({name: tensor.float().cpu().contiguous() for name, tensor in fisher.items()}, folder / FILE)


class _EWCTerm(Term):
    def __init__(self, weight: float, start: Fixed, fisher: Fixed) -> None:
        super().__init__()
        self.weight = weight
        self.start = start
        self.fisher = fisher

    def forward(self, step: Step) -> Tensor:
        trained = {name: p for name, _, p in step.network.named_group_parameters() if p.requires_grad}
        fisher = dict(self.fisher.items())
        anchored = [(trained[name], start, fisher[name]) for name, start in self.start.items() if name in trained]
        return step.outputs.logits.new_ones(()) * self.weight * elastic_penalty(anchored)
