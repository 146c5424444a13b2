"""What every method is given, and what averages of weights need beside the average."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graft.averaging import State, statistics_differ, weighted
from graft.data.domain import Domain
from graft.evaluation import evaluate
from graft.models.network import Network
from graft.recalibration import reestimate
from graft.stage import Stage, solve_closed_form, stage_inference
from graft.summary import flat_scores


class After:
    """What methods have in common."""

    def check(self, network: Network) -> None:
        """Refuse a network that it makes no sense for; most take any."""


@dataclass(frozen=True)
class Finished:
    """A target stage that is over."""

    stage: Stage
    network: Network  # with the weights behind the run's headline figures
    source_accuracy: Callable[[Network], float | None]  # of its backbone under the source's own head; None without one
    save: Callable[[str], None]  # writes the network's weights into the run's folder under a name

    @property
    def target(self) -> Domain:
        """What is scored: beside an adaptation's labelled source, the domain without labels."""
        return target_of(self.stage)

    @property
    def splits(self) -> list[str]:
        """The target's splits to be scored: `test`, and `val` where there is one."""
        return [split for split in ("test", "val") if self.target.sizes[split]]

    def metrics(self) -> dict[str, float]:
        """Scores of the network as it is, named as in a record: `target/test/accuracy` and so on."""
        domain, device = self.target, self.stage.training.device
        return flat_scores({split: evaluate(self.network, domain, split, device) for split in self.splits}, "target")


def target_of(stage: Stage) -> Domain:
    """The domain that a target stage is for."""
    return stage.unlabelled or stage.domain


def load_average(stage: Stage, network: Network, states: Sequence[State], weights: Sequence[float]) -> None:
    """Load the weighted average of states into the network.

    Running statistics in which the averaged states differ are estimated anew on the target's training images, and what
    is solved in closed form is solved anew; one state that has all the weight is loaded as it is.
    """
    network.load_state_dict(weighted(states, weights))
    averaged = [state for state, weight in zip(states, weights, strict=True) if weight]
    if len(averaged) == 1:
        return
    if statistics_differ(averaged):
        reestimate(network, target_of(stage), stage_inference(stage, network))
    solve_closed_form(stage, network, cache=None)
