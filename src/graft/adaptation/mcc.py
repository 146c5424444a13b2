"""MCC: minimum class confusion."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import log_softmax, softmax

from graft.adaptation.base import Adaptation
from graft.adaptation.entropy import entropies
from graft.errors import UserError
from graft.regularisers.base import Step, full_precision


def class_confusion(logits: Tensor, temperature: float = 2.5) -> Tensor:
    """1/k times the sum over j and k' != j of the normalised class correlation, a scalar from 0 to 1, of logits [n, k].

    Jin et al., "Minimum class confusion for versatile domain adaptation", ECCV 2020, section 3. The correlation of
    classes is Y' W Y for the probabilities Y at the temperature and weights W that grow with certainty, and each
    row is divided by its sum. Since the rows of Y sum to 1, that divides column j of W Y by its sum over samples, a
    softmax over n of log w + log y: it is finite where a class has no probability at all. Like the authors' published
    code, the weights take no gradient.
    """
    logits = full_precision(logits) / temperature
    log_p = log_softmax(logits, dim=1)
    log_weights = (1.0 + (-entropies(logits)).exp()).log().detach()  # up to a constant
    shares = softmax(log_p + log_weights[:, None], dim=0)  # [n, k], of each sample in its classes
    return 1.0 - (shares * log_p.exp()).sum() / logits.shape[1]


@dataclass(frozen=True)
class MCC(Adaptation):
    """Minimises how much predictions on the target confuse one class with another."""

    temperature: float = 2.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0.0:
            raise UserError(f"temperature={self.temperature!r}; expected a number above 0")

    def loss(self, step: Step) -> Tensor:
        """`class_confusion` of the predictions on the target."""
        return class_confusion(step.required_target().outputs.logits, self.temperature)
