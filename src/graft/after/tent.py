"""TENT: test-time entropy minimisation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from graft.adaptation.entropy import entropies
from graft.after.online import Deployed, OnlineByNorms, Predictor, norm_parameters, normalise_by_batch


@dataclass(frozen=True)
class Tent(OnlineByNorms):
    """Minimises the mean entropy of each batch's predictions by the scales and shifts of norm layers.

    Wang et al., "Tent: fully test-time adaptation by entropy minimization", ICLR 2021, section 3, online: one step of
    Adam a batch on 1/n sum_i H(softmax(z_i)). A batch is predicted before the step that it gives rise to. Where norm
    layers keep running statistics, those of the batch take their place.
    """

    def begin(self, deployed: Deployed) -> Predictor:
        """Ready for the first batch."""
        network = deployed.network
        normalise_by_batch(network)
        parameters = [parameter.requires_grad_() for parameter in norm_parameters(network)]
        optimizer = torch.optim.Adam(parameters, lr=self.lr)

        def predict(x: Tensor) -> Tensor:
            logits: Tensor = network(deployed.view(x))
            optimizer.zero_grad()
            entropies(logits).mean().backward()
            optimizer.step()
            return logits

        return predict
