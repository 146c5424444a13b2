"""AdaBN: the target's statistics, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import network, stage, tiny_domain, training, write_arrays
from conf_plugins import build, load
from hydra.core.config_loader import ConfigLoader

from graft.adaptation.selection import Selection
from graft.build.validation import validate
from graft.cli.compose import compose
from graft.data.domain import Domain
from graft.models.network import Network
from graft.stage import Fitted, fit_stage

ADAPTS = ("target.labels_per_class=null", "adaptation=adabn")
STATISTICS = ("running_mean", "running_var")


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Domain, Domain]:
    folders = [tmp_path_factory.mktemp(name) for name in ("source", "target")]
    for seed, folder in enumerate(folders):
        write_arrays(folder / "tiny.npz", num_per_class=6, seed=seed)
    source, target = (tiny_domain(folder) for folder in folders)
    return source, target


def fit(
    folder: Path,
    domains: tuple[Domain, Domain],
    *names: str,
    epochs: int = 1,
    selection: Selection | None = None,
) -> tuple[Network, Fitted]:
    methods = {name: build(load("adaptation", name)[name]) for name in names}
    net = network("resnet20")
    how = replace(training(max_epochs=epochs), adaptation=methods)
    fitted = fit_stage(replace(stage(folder, domains[0], how), unlabelled=domains[1], selection=selection), net)
    return net, fitted


def first_moments(state: dict[str, torch.Tensor], domain: Domain) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of what the first norm layer is given, over all training images at once."""
    images = domain.datasets["train"]
    x = domain.view.evaluate(torch.cat([images[rows].x for rows in domain.loader("train").sampler]))
    z = torch.nn.functional.conv2d(x, state["backbone.stem.conv1.weight"], padding=1).double()
    return z.mean(dim=(0, 2, 3)), z.var(dim=(0, 2, 3), correction=0)


def test_alone_it_trains_nothing_and_gives_the_statistics_of_the_target(
    tmp_path: Path, domains: tuple[Domain, Domain]
) -> None:
    start = network("resnet20").state_dict()
    net, fitted = fit(tmp_path, domains, "adabn")
    assert (fitted.history, fitted.trainable_parameters, fitted.steps) == ([], 0, 0)
    assert fitted.best is fitted.last
    for name, tensor in fitted.last.items():
        assert torch.equal(tensor, start[name]) == (not name.endswith(STATISTICS)), name
        assert torch.equal(tensor, net.state_dict()[name])
    expected = first_moments(start, domains[1])
    for found, moment in zip((fitted.last[f"backbone.stem.bn1.{name}"] for name in STATISTICS), expected, strict=True):
        torch.testing.assert_close(found.double(), moment, rtol=1e-4, atol=1e-5)


def test_beside_another_method_it_follows_the_training(tmp_path: Path, domains: tuple[Domain, Domain]) -> None:
    plain = fit(tmp_path / "plain", domains, "source_only")[1]
    both = fit(tmp_path / "both", domains, "source_only", "adabn")[1]
    assert len(both.history) == 1
    for name, tensor in both.last.items():
        assert torch.equal(tensor, plain.last[name]) == (not name.endswith(STATISTICS)), name
    found = both.last["backbone.stem.bn1.running_mean"].double()
    torch.testing.assert_close(found, first_moments(both.last, domains[1])[0], rtol=1e-4, atol=1e-5)


def test_it_follows_whatever_epoch_a_rule_chose(tmp_path: Path, domains: tuple[Domain, Domain]) -> None:
    fitted = fit(tmp_path, domains, "source_only", "adabn", epochs=4, selection=Selection(images=20))[1]
    states = {choice.epoch: choice.read() for choice in fitted.label_free.values()}
    assert states.keys() - {4}
    for state in states.values():
        expected = first_moments(state, domains[1])[0]
        torch.testing.assert_close(state["backbone.stem.bn1.running_mean"].double(), expected, rtol=1e-4, atol=1e-5)


def test_a_network_without_statistics_is_refused(loader: ConfigLoader) -> None:
    errors = validate(compose(loader, [*ADAPTS, "backbone=cnn"]))
    assert any("adaptation=adabn: it replaces the running statistics of norm layers" in error for error in errors)


def test_there_is_no_way_back_from_what_was_not_trained(loader: ConfigLoader) -> None:
    words = [*ADAPTS, "backbone=resnet20", "after=wise_ft", "after.wise_ft.alpha=0.5"]
    errors = validate(compose(loader, words))
    assert any("after.wise_ft: adaptation=adabn leaves the weights as they started" in error for error in errors)
