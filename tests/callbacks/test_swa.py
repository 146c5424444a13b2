"""The average is that of the last epochs' ends, is what is validated, and has statistics of its own."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import network, stage, tiny_domain, training
from pytorch_lightning import Callback, LightningModule, Trainer

from graft.callbacks.swa import StochasticWeightAveraging
from graft.data.domain import Domain
from graft.errors import UserError
from graft.evaluation import evaluate
from graft.stage import Fitted, fit_stage

CPU = torch.device("cpu")
State = dict[str, torch.Tensor]


class Epochs(Callback):
    """Keeps the trained network's state at the end of each epoch, not the average's."""

    def __init__(self) -> None:
        self.states: list[State] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.states.append({name: t.detach().clone() for name, t in pl_module.network.state_dict().items()})


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    return tiny_domain(tmp_path)


def fit(folder: Path, domain: Domain, how: str, start: float | None, backbone: str = "resnet20") -> tuple[Fitted, list]:
    epochs = Epochs()
    averaging = [] if start is None else [StochasticWeightAveraging(start)]
    trained = replace(training(how, 4), callbacks=lambda: [*averaging, epochs])
    return fit_stage(stage(folder, domain, trained), network(backbone)), epochs.states


def statistics(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name.endswith(("running_mean", "running_var"))}


def test_weights_are_the_mean_of_the_last_epochs_and_training_does_not_notice(tmp_path: Path, domain: Domain) -> None:
    plain, _ = fit(tmp_path / "plain", domain, "fine_tune", None)
    fitted, states = fit(tmp_path / "swa", domain, "fine_tune", start=0.25)
    assert all(torch.equal(states[-1][name], tensor) for name, tensor in plain.last.items())
    last = states[1:]
    for name in fitted.last.keys() - statistics(fitted.last).keys():
        expected = torch.stack([state[name].double() for state in last]).mean(0)
        expected = expected if fitted.last[name].is_floating_point() else last[-1][name].double()
        torch.testing.assert_close(fitted.last[name].double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backbone", ["cnn", "resnet20"])
def test_what_is_validated_is_what_is_kept(tmp_path: Path, domain: Domain, backbone: str) -> None:
    fitted, _ = fit(tmp_path, domain, "fine_tune", 0.25, backbone)
    net = network(backbone)
    net.load_state_dict(fitted.last)
    found = evaluate(net, domain, "val", CPU)
    assert found["accuracy"] == pytest.approx(fitted.history[-1]["val/accuracy"])
    assert found["loss"] == pytest.approx(fitted.history[-1]["val/loss"], rel=1e-5)


def test_until_it_starts_the_average_is_the_network(tmp_path: Path, domain: Domain) -> None:
    plain, _ = fit(tmp_path / "plain", domain, "fine_tune", None)
    fitted, _ = fit(tmp_path / "swa", domain, "fine_tune", start=0.99)
    for a, b in zip(plain.history[:3], fitted.history[:3], strict=True):
        assert (a["val/loss"], a["train/loss"]) == (b["val/loss"], b["train/loss"])
    assert all(torch.equal(fitted.last[name], tensor) for name, tensor in plain.last.items())


def test_statistics_that_a_phase_fixes_stay(tmp_path: Path, domain: Domain) -> None:
    before = statistics(network("resnet20").state_dict())
    fitted, _ = fit(tmp_path, domain, "lp_ft", start=0.0)
    assert all(torch.equal(fitted.last[name], tensor) for name, tensor in before.items())
    moved, _ = fit(tmp_path / "moved", domain, "fine_tune", start=0.0)
    assert not any(torch.equal(moved.last[name], tensor) for name, tensor in before.items())


def test_an_average_does_not_reach_over_phases(tmp_path: Path, domain: Domain) -> None:
    fitted, states = fit(tmp_path, domain, "lp_ft", start=0.0)
    name = "backbone.stem.conv.weight" if "backbone.stem.conv.weight" in states[0] else next(iter(states[0]))
    expected = (states[2][name].double() + states[3][name].double()) / 2
    torch.testing.assert_close(fitted.last[name].double(), expected, rtol=1e-5, atol=1e-7)


def test_a_start_out_of_range_is_refused() -> None:
    with pytest.raises(UserError, match=r"callbacks\.swa\.start=1"):
        StochasticWeightAveraging(start=1.0)
