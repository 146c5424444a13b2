"""Methods that adapt while they predict: what they leave alone, what they refuse, and whole runs."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import network, stage, tiny_domain, training, write_arrays
from conf_plugins import build, load
from safetensors.torch import load_file

from graft.after.base import Finished
from graft.after.online import Online
from graft.build.assembly import build_experiment
from graft.build.validation import validate
from graft.cli.compose import compose, hydra_application
from graft.data.augment import Augmentation
from graft.data.domain import Domain
from graft.errors import UserError
from graft.evaluation import evaluate
from graft.models.network import Network
from graft.pipeline import run
from graft.summary import flat_scores

NAMES = ("tent", "eata", "cotta", "t3a")
BY_NORMS = ("tent", "eata", "cotta")
ALL = ("after=[tent,eata,cotta,t3a]", "after.cotta.num_views=2", "after.eata.num_fisher=5")
QUICK = {"eata": {"num_fisher": 5}, "cotta": {"num_views": 2}}


def method(name: str, **changed: Any) -> Online:
    node = load("after", name)[name]
    if "augmentation" in node:
        changed = {"augmentation": build(node["augmentation"])} | changed
    return build(node | {"seed": 0, "batch_size": 10} | QUICK.get(name, {}) | changed)


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    return tiny_domain(tmp_path_factory.mktemp("online"))


def finished(folder: Path, domain: Domain, net: Network) -> Finished:
    return Finished(stage(folder, domain, training()), net, lambda network: None, lambda name: None)


@pytest.mark.parametrize("name", NAMES)
def test_repeats_to_the_bit_and_leaves_the_network_and_the_generators_alone(
    name: str, domain: Domain, tmp_path: Path
) -> None:
    net = network("resnet20")
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    settings = [(parameter.requires_grad, parameter.grad) for parameter in net.parameters()]
    modes, drawn = [module.training for module in net.modules()], torch.get_rng_state()
    first, second = (method(name).predictions(finished(tmp_path, domain, net), "test") for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.isfinite(first[0]).all()
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    assert [(parameter.requires_grad, parameter.grad) for parameter in net.parameters()] == settings
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("name", NAMES)
def test_labels_change_no_prediction(name: str, domain: Domain, tmp_path: Path) -> None:
    net, splits = network("resnet20"), domain.datasets
    relabelled = tiny_domain(tmp_path)
    relabelled.datasets = {
        split: replace(data, images=splits[split].images, labels=data.labels.flip(0))
        for split, data in relabelled.datasets.items()
    }
    found = [method(name).predictions(finished(tmp_path, d, net), "test") for d in (domain, relabelled)]
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][1], found[1][1])


def test_the_seed_is_that_of_the_order(domain: Domain, tmp_path: Path) -> None:
    net = network("resnet20")
    labels = [method("tent", seed=seed).predictions(finished(tmp_path, domain, net), "test")[1] for seed in (0, 1)]
    assert not torch.equal(*labels)
    assert torch.equal(labels[0].sort().values, labels[1].sort().values)


def test_beside_an_adaptation_the_target_is_scored_and_not_its_source(domain: Domain, tmp_path: Path) -> None:
    write_arrays(tmp_path / "tiny.npz", seed=5)
    target, net = tiny_domain(tmp_path), network("resnet20")
    one = finished(tmp_path, domain, net)
    adapted = replace(one, stage=replace(one.stage, unlabelled=target))
    test = flat_scores({"test": evaluate(net, target, "test", torch.device("cpu"))}, "target")
    assert adapted.metrics().items() >= test.items()
    assert one.metrics()["target/test/loss"] != test["target/test/loss"]
    tta = build(load("after", "tta")["tta"] | {"num_views": 1, "flip": True, "seed": 0, "augmentation": Augmentation()})
    for way in (tta, method("t3a")):
        assert way(adapted)["metrics"] == way(finished(tmp_path, target, net))["metrics"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("runs")
    arrays = [write_arrays(folder / f"{name}.npz", seed=seed) for seed, name in enumerate(("source", "target"))]
    return [
        *("source=arrays", f"source.path={arrays[0]}", "target=arrays", f"target.path={arrays[1]}"),
        *("backbone=resnet20", "trainer=cpu", "logger=none", "trainer.max_epochs=1", "pretrain.max_epochs=1"),
        *("analysis.cka_images=0", f"paths.outputs={folder / 'outputs'}"),
    ]


@pytest.fixture(scope="module")
def composed(words: list[str]) -> Iterator[Any]:
    with hydra_application() as hydra:
        yield lambda *more: compose(hydra.config_loader, [*words, *more])


@pytest.mark.parametrize("how", ["baselines=[]", "adaptation=source_only"])
def test_whole_runs(how: str, composed: Any, tmp_path: Path) -> None:
    config = composed(how, *ALL)
    assert validate(config) == []
    record = run(build_experiment(config), tmp_path)
    assert list(record["after"]) == list(NAMES)
    own = {name: value for name, value in record["metrics"].items() if name.startswith("target/")}
    for result in record["after"].values():
        assert own.keys() <= result["metrics"].keys()
        assert result["metrics"]["target/test/loss"] != own["target/test/loss"]
    saved = load_file(tmp_path / "weights" / "network.safetensors")
    trained = torch.load(tmp_path / "transfer" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, trained[f"network.{name}"]) for name, tensor in saved.items())


REFUSED = [
    *[
        ((f"after={name}", "backbone=cnn"), f"after={name}: it adapts the scales and shifts of norm")
        for name in BY_NORMS
    ],
    (("after=t3a", "head=mlp"), "after=t3a: its prototypes begin with the weights of a linear head"),
    *[((f"after={name}", f"after.{name}.batch_size=1"), f"after.{name}.batch_size=1; expected 2") for name in BY_NORMS],
    (("after=t3a", "after.t3a.batch_size=0"), "after.t3a.batch_size=0; expected 1 or more"),
    (("after=t3a", "after.t3a.num_supports=0"), "after.t3a.num_supports=0; expected 1 or more, or null"),
    (("after=tent", "after.tent.lr=0"), "after.tent.lr=0; expected a number above 0"),
    (("after=eata", "after.eata.margin=1.5"), "after.eata.margin=1.5; expected a number above 0 and at most 1"),
    (("after=eata", "after.eata.num_fisher=0"), "after.eata.num_fisher=0; expected 1 or more"),
    (("after=eata", "after.eata.fisher_weight=-1"), "after.eata.fisher_weight=-1; expected 0 or more"),
    (("after=cotta", "after.cotta.momentum=2"), "after.cotta.momentum=2; expected a number from 0 to 1"),
    (("after=cotta", "after.cotta.num_views=0"), "after.cotta.num_views=0; expected 1 or more"),
    (("after=cotta", "+after.cotta.augmentation.mixup=1"), "a view is one image's own"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[" ".join(given) for given, _ in REFUSED])
def test_what_makes_no_sense_is_refused(given: tuple[str, ...], message: str, composed: Any) -> None:
    errors = validate(composed(*given))
    assert any(message in error for error in errors), errors


def test_views_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(UserError, match="all views would be the same"):
        method("cotta", augmentation=build({"_target_": "graft.data.augment.Augmentation"}))
