"""Stochastic weight averaging: the network that is validated and kept is the mean over the last epochs."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from graft.batch import LabelledBatch, in_dtype
from graft.errors import UserError
from graft.module import GraftModule
from graft.recalibration import averaging_statistics


class StochasticWeightAveraging(WeightAveraging):
    """Averages the weights at the ends of the last epochs of a stage.

    Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, algorithm 1 with a
    cycle of one epoch; the learning rates are the run's own. Before each validation, norm statistics that training
    moves are estimated anew for the average, in a pass over the training images under the evaluation view. Until the
    first of these epochs the average is the network itself. An average does not reach back over the start of a phase.

    Lightning's own callback of that name sets learning rates through a scheduler of its own, which here the schedule
    does; its `WeightAveraging` averages after the validation of an epoch and leaves statistics to others.

    Args:
        start: share of the stage's epochs, in [0, 1), that lie before the first averaged one.

    Raises:
        UserError: `start` is out of range.
    """

    def __init__(self, start: float = 0.75) -> None:
        if not 0 <= start < 1:
            raise UserError(f"callbacks.swa.start={start}; expected a share of the epochs from 0 on and below 1")
        super().__init__(use_buffers=False)
        self.start = start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: LabelledBatch, batch_idx: int
    ) -> None:
        """After the last batch of an epoch, add the weights to the average."""
        if not trainer.is_last_batch:
            return
        assert isinstance(pl_module, GraftModule)
        assert self._average_model is not None
        first = int(self.start * pl_module.stage_epochs)
        if pl_module.stage_epoch <= first:
            self._average_model.n_averaged.zero_()  # so that the coming update copies
        self._average_model.update_parameters(pl_module)
        if pl_module.stage_epoch > first:
            self._estimate_statistics(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The average has had the epoch's weights before the validation."""

    @torch.no_grad()
    def _estimate_statistics(self, trainer: Trainer, module: GraftModule) -> None:
        """Give the average statistics of its own, in the layers in which training moves them."""
        assert self._average_model is not None
        average = self._average_model.module
        assert isinstance(average, GraftModule)
        pairs = zip(module.network.modules(), average.network.modules(), strict=True)
        layers = [own for current, own in pairs if isinstance(own, _BatchNorm) and current.training]
        if not layers:
            return
        average.network.eval()
        batches: Any = trainer.train_dataloader
        with averaging_statistics(layers):
            for batch in batches:
                x = in_dtype(module.view.evaluate(batch.x.to(module.device)), average.network.dtype)
                with trainer.precision_plugin.forward_context():
                    average.network.head(average.network.features(x, module.cut))
        for layer in layers:
            for statistic in (layer.running_mean, layer.running_var):
                assert isinstance(statistic, Tensor)
                statistic.copy_(trainer.strategy.reduce(statistic, reduce_op="mean"))
