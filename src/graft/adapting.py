"""Adapting to a target without labels: source and target go through the network together."""

from typing import Any

import torch
from torch import Generator, Tensor

from graft.adaptation.base import Adaptation
from graft.batch import LabelledBatch, PairedBatch
from graft.data.view import View
from graft.module import GraftModule, Losses, seed_global_generators, summed
from graft.objectives.supervised import Outputs
from graft.regularisers.base import Step, Trace, Unlabelled
from graft.seeds import stable_seed


class AdaptationModule(GraftModule):
    """Trains on the objective on the source's labels and on terms that see source and target.

    Both batches go through the network as one, so that norm layers see the statistics of the mixture in training as in
    their running averages. Source-free methods have the target's alone, and no objective. Accuracies are the source's.
    """

    target_view: View

    def training_losses(self, batch: PairedBatch, batch_idx: int) -> Losses:  # type: ignore[override]
        """What the objective says of the source's images, and the methods of both."""
        assert self.regularisation is not None
        seed = stable_seed(self.seed, self.stage_epoch, batch_idx, self.global_rank)
        seed_global_generators(seed, self.device)  # dropout, and what methods draw
        target_x = self.target_view.unmixed(batch.target.x, self._generator(seed, "target"))
        second = None
        if self.regularisation.wants_second_view:
            second = self.target_view.unmixed(batch.target.x, self._generator(seed, "second view"))
        if batch.source is None:
            return self._source_free_losses(batch, target_x, second)
        source = self.view.train(batch.source, self._generator(seed))
        both = self.regularisation.trace(self.network, torch.cat([source.x, target_x]), self.cut)
        logits, num = self.network.head(both.features), len(source.x)
        outputs = Outputs(logits[:num], both.features[:num])
        unlabelled = Unlabelled(Outputs(logits[num:], both.features[num:]), batch.target.positions, target_x, second)
        step = self._step(source, outputs, first(both, num), unlabelled)
        terms = self.objective(outputs, source.y, self.progress) | self.regularisation(step)
        return Losses(summed(terms), terms, outputs.logits, source.y, self.regularisation.figures)

    def _source_free_losses(self, batch: PairedBatch, x: Tensor, second: Tensor | None) -> Losses:
        assert self.regularisation is not None
        trace = self.regularisation.trace(self.network, x, self.cut)
        outputs = Outputs(self.network.head(trace.features), trace.features)
        unlabelled = Unlabelled(outputs, batch.target.positions, x, second)
        # No label is known; terms that ask for labels are refused beside a source-free method.
        nothing = LabelledBatch(x[:0], batch.target.positions[:0], batch.target.positions[:0])
        step = self._step(nothing, Outputs(outputs.logits[:0], outputs.features[:0]), first(trace, 0), unlabelled)
        terms = self.regularisation(step)
        return Losses(summed(terms), terms, outputs.logits, None, self.regularisation.figures)

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
        return Step(self.network, source.y, outputs, trace, start, cut=self.cut, target=target, progress=self.progress)

    def _generator(self, seed: int, *purpose: Any) -> Generator:
        return torch.Generator(self.device).manual_seed(stable_seed(seed, *purpose) if purpose else seed)


def first(trace: Trace, num: int) -> Trace:
    """A trace of the first `num` images of a batch."""
    groups = {name: output[:num] for name, output in trace.groups.items()}
    return Trace(trace.backbone_features[:num], trace.features[:num], groups)
