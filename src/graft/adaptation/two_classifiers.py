"""A second classifier beside the head, for the methods that set two against each other."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import softmax

from graft.adaptation.base import Adaptation
from graft.adaptation.reversal import reverse
from graft.models.heads.linear import LinearHead
from graft.models.network import initial_weights
from graft.objectives.supervised import cross_entropy
from graft.regularisers.base import Beginning, Step, Term, full_precision


def second_head(beginning: Beginning, part: str) -> LinearHead:
    """A linear head for the network's features and classes, drawn from the stage's seed and the method's name."""
    head = beginning.network.head
    with initial_weights(beginning.seed, part):
        return LinearHead(head.num_features, head.num_classes)


def classify(head: nn.Module, features: Tensor) -> Tensor:
    """Logits [n, k], in float32 at least, of features [n, d] in whatever precision."""
    return full_precision(head(features.to(next(head.parameters()).dtype)))


class TwoClassifiersTerm(Term):
    """Head and second head disagree on the target as much as they can, and the features learn to let them agree.

    cross_entropy(second(f_s), y) - discrepancy(softmax(head(r(f_t))), softmax(second(r(f_t)))), where r reverses the
    gradient of the features with the method's weight. The heads' own gradient is not scaled.
    """

    def __init__(self, settings: Adaptation, second: LinearHead, discrepancy: Callable[[Tensor, Tensor], Tensor]):
        super().__init__()
        self.settings = settings
        self.second = second
        self.discrepancy = discrepancy

    def forward(self, step: Step) -> Tensor:
        """The term of one training step."""
        target = reverse(step.required_target().outputs.features, self.settings.ramp(step.progress))
        first, second = (softmax(classify(head, target), dim=1) for head in (step.network.head, self.second))
        on_source = cross_entropy(classify(self.second, step.outputs.features), step.y)
        return on_source - self.discrepancy(first, second)
