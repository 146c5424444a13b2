"""Adapting to a target without labels, or with few: source and target go through the network together."""

from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from graft.adaptation.base import Adaptation
from graft.batch import LabelledBatch, PairedBatch
from graft.data.view import View
from graft.module import GraftModule, Losses, seed_global_generators, summed
from graft.objectives.supervised import Outputs
from graft.regularisers.base import Step, Trace, Unlabelled
from graft.seeds import stable_seed


class AdaptationModule(GraftModule):
    """Trains on the objective on labelled images, the source's and the target's few, and on terms that see both.

    All of a batch goes through the network as one, so that norm layers see the statistics of the mixture in training as
    in their running averages. The objective is a mean over all labelled images; what the terms take for the source are
    its own images alone. Source-free methods have the target's images alone, and no objective where none has a label.
    Accuracies are those of the labelled images.
    """

    target_view: View

    def training_losses(self, batch: PairedBatch, batch_idx: int) -> Losses:  # type: ignore[override]
        """What the objective says of the labelled images, and the methods of source and target."""
        assert self.regularisation is not None
        seed = stable_seed(self.seed, self.stage_epoch, batch_idx, self.global_rank)
        seed_global_generators(seed, self.device)  # dropout, and what methods draw
        target_x = self.target_view.unmixed(batch.target.x, self._generator(seed, "target"))
        second = None
        if self.regularisation.wants_second_view:
            second = self.target_view.unmixed(batch.target.x, self._generator(seed, "second view"))
        nothing = LabelledBatch(target_x[:0], batch.target.positions[:0], batch.target.positions[:0])
        source = labelled = nothing
        if batch.source is not None:
            source = self.view.train(batch.source, self._generator(seed))
        if batch.labelled is not None:
            labelled = self.target_view.train(batch.labelled, self._generator(seed, "labelled target"))
        x = torch.cat([source.x, labelled.x, target_x])
        whole = self.regularisation.trace(self.network, x, self.cut)
        logits, num_source, num = self.network.head(whole.features), len(source.x), len(source.x) + len(labelled.x)
        unlabelled = Unlabelled(Outputs(logits[num:], whole.features[num:]), batch.target.positions, target_x, second)
        outputs = Outputs(logits[:num_source], whole.features[:num_source])
        terms = self.regularisation(self._step(source, outputs, first(whole, num_source), unlabelled))
        figures = self.regularisation.figures
        if num == 0:
            return Losses(summed(terms), terms, logits, None, figures)
        y = together(source.y, labelled.y)
        terms = self.objective(Outputs(logits[:num], whole.features[:num]), y, self.progress) | terms
        return Losses(summed(terms), terms, logits[:num], y, figures)

    @property
    def whole_batch(self) -> str:
        """Source and target are compared, or normalised, together."""
        return "adaptation takes source and target together"

    @property
    def num_processes(self) -> int:
        """How many processes train the network together."""
        return self.trainer.world_size

    @property
    def epoch_metrics(self) -> dict[str, float]:
        """Means over the epoch, and `lambda/<method>`, the weight that its ramp has reached by now."""
        assert self.regularisation is not None
        methods = self.regularisation.regularisers.items()
        ramps = {
            f"lambda/{name}": method.ramp(self.progress) for name, method in methods if isinstance(method, Adaptation)
        }
        return super().epoch_metrics | ramps

    def _step(self, source: LabelledBatch, outputs: Outputs, trace: Trace, target: Unlabelled) -> Step:
        assert self.regularisation is not None
        start = self.regularisation.starting_trace(source.x, self.cut) if len(source.x) else None
        return Step(
            self.network,
            source.y,
            outputs,
            trace,
            start,
            cut=self.cut,
            target=target,
            progress=self.progress,
            domains=source.domains,
            num_processes=self.num_processes,
        )

    def _generator(self, seed: int, *purpose: Any) -> Generator:
        return torch.Generator(self.device).manual_seed(stable_seed(seed, *purpose) if purpose else seed)


def together(source: Tensor, target: Tensor) -> Tensor:
    """Labels of both, [n_s + n_t] class indices; probabilities [n_s + n_t, k] where the source's [n_s, k] are."""
    if source.ndim == 2:
        target = one_hot(target, source.shape[1]).to(source.dtype)
    return torch.cat([source, target])


def first(trace: Trace, num: int) -> Trace:
    """A trace of the first `num` images of a batch."""
    groups = {name: output[:num] for name, output in trace.groups.items()}
    return Trace(trace.backbone_features[:num], trace.features[:num], groups)
