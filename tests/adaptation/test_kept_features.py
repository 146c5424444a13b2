"""Adapting from kept features of a frozen prefix is adapting through it, whatever the method."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import network, stage, strategy, tiny_domain, training
from paired_steps import method
from pytorch_lightning import Callback

from graft.adaptation.selection import PREFIX, Selection
from graft.data.augment import Augmentation
from graft.data.domain import Domain
from graft.errors import UserError
from graft.evaluation import evaluate
from graft.experiment import Training
from graft.features import FeatureCache
from graft.models.backbones.resnet_cifar import ResNetCifar
from graft.models.mappings.affine import AffineMapping
from graft.models.network import Network
from graft.records.store import Store
from graft.stage import MEMORY_FORMATS, Fitted, fit_stage
from graft.strategies.phases import Strategy

PAIRED = ("adda", "atdoc", "cdan", "fixmatch", "mcd", "mean_teacher", "wdgrl")
SOURCE_FREE = ("nrc", "shot")
CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(Store(tmp_path / "store"), limit=2**30)


def num_entries(cache: FeatureCache) -> int:
    return len(list(cache.store.root.glob("features/*/*/manifest.json")))


def pair(folder: Path, **target: Any) -> tuple[Domain, Domain]:
    """48 training and 12 validation images of the source; 60 training images of the target, without labels."""
    settings = {"batch_size": 9, "val_fraction": 0.0} | target
    return tiny_domain(folder, batch_size=16), tiny_domain(folder, **settings)


def mapped_network() -> Network:
    net = network("resnet20")
    return Network(net.backbone, AffineMapping(net.backbone.num_features), net.head)


def adapting(*names: str, how: str = "linear_probe", **settings: Any) -> Training:
    callbacks = settings.pop("callbacks", ())
    return replace(training(how, 2, callbacks=callbacks), adaptation={name: method(name) for name in names}, **settings)


def fit(folder: Path, domains: tuple[Domain, Domain], how: Training, cache: FeatureCache | None) -> Fitted:
    source, target = domains
    return fit_stage(replace(stage(folder, source, how, cache=cache), unlabelled=target), mapped_network())


def assert_same(one: Fitted, other: Fitted) -> None:
    assert one.last.keys() == other.last.keys()
    assert all(torch.equal(tensor, other.last[name]) for name, tensor in one.last.items())
    for row, again in zip(one.history, other.history, strict=True):
        assert {key: value for key, value in row.items() if "seconds" not in key} == {
            key: value for key, value in again.items() if "seconds" not in key
        }


@pytest.mark.parametrize(
    ("names", "entries", "how"),
    [(PAIRED, 3, "linear_probe"), (PAIRED, 3, "last_stage"), (SOURCE_FREE, 2, "linear_probe")],
    ids=["paired", "paired, last stage", "source-free"],
)
def test_it_is_adapting_through_the_prefix(
    tmp_path: Path, cache: FeatureCache, names: tuple[str, ...], entries: int, how: str
) -> None:
    domains = pair(tmp_path)
    through = fit(tmp_path / "a", domains, adapting(*names, how=how), None)
    assert_same(fit(tmp_path / "b", domains, adapting(*names, how=how), cache), through)
    assert num_entries(cache) == entries  # val of the source, its train unless source-free, all of the target


@pytest.mark.parametrize("names", [PAIRED, SOURCE_FREE], ids=["paired", "source-free"])
@pytest.mark.parametrize("how", ["linear_probe", "last_stage"])
def test_neither_labels_nor_scores_run_layer_groups_that_stay(
    tmp_path: Path, cache: FeatureCache, names: tuple[str, ...], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    domains, trained = pair(tmp_path), adapting(*names, how=how)
    looking = {"unlabelled": domains[1], "selection": Selection(images=20)}
    through = fit_stage(replace(stage(tmp_path / "a", domains[0], trained), **looking), mapped_network())
    fit(tmp_path / "b", domains, trained, cache)
    original = ResNetCifar.forward_from

    def forward_from(self: ResNetCifar, cut: int, x: torch.Tensor) -> torch.Tensor:
        assert cut
        return original(self, cut, x)

    monkeypatch.setattr(ResNetCifar, "forward_to", lambda *_: pytest.fail("from images again"))
    monkeypatch.setattr(ResNetCifar, "forward_from", forward_from)
    kept = fit_stage(replace(stage(tmp_path / "c", domains[0], trained, cache=cache), **looking), mapped_network())
    for row, again in zip(through.history, kept.history, strict=True):
        scores = {key: value for key, value in row.items() if key.startswith(PREFIX) and "seconds" not in key}
        assert scores
        assert {key: again[key] for key in scores} == pytest.approx(scores, rel=1e-4, abs=1e-5)
    assert all(torch.equal(tensor, kept.last[name]) for name, tensor in through.last.items())


def test_features_are_those_of_either_domain_alone(tmp_path: Path, cache: FeatureCache) -> None:
    source, target = pair(tmp_path)
    fit(tmp_path / "a", (source, target), adapting("coral"), cache)
    before = num_entries(cache)
    for name, domain in (("b", source), ("c", target)):
        fit_stage(stage(tmp_path / name, domain, training("linear_probe", 1), cache=cache), mapped_network())
    assert num_entries(cache) == before == 3


class Seen(Callback):
    """Keeps the target's part of every batch, by epoch and position."""

    def __init__(self) -> None:
        self.features: dict[int, dict[int, torch.Tensor]] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        rows = zip(batch.target.positions.tolist(), batch.target.x, strict=True)
        self.features.setdefault(pl_module.stage_epoch, {}).update(rows)


def augmenting_probe() -> Strategy:
    rules = {r"(mapping|head)\..*": {"lr_scale": 1}, r"backbone\..*": None}
    return Strategy("probe", [{"name": "probe", "augment": True, "rules": rules}])


def test_fixed_augmented_views_of_both_domains_come_one_an_epoch(tmp_path: Path, cache: FeatureCache) -> None:
    domains = pair(tmp_path, augmentation=Augmentation(flip=True))
    domains[0].augmentation = Augmentation(crop_padding=4)
    seen = Seen()
    how = adapting("coral", strategy=augmenting_probe(), augmented_views=2, callbacks=[seen])
    fit(tmp_path / "a", domains, how, cache)
    assert num_entries(cache) == 5  # two views of each domain's train, one of the source's val
    assert [set(features) for features in seen.features.values()] == [set(range(60))] * 2
    flips = [not torch.equal(seen.features[0][i], seen.features[1][i]) for i in range(60)]
    assert 0 < sum(flips) < 60
    plain = strategy("linear_probe")  # which trains on the evaluation view
    fit(tmp_path / "b", domains, replace(how, strategy=plain, callbacks=list), cache)
    assert num_entries(cache) == 7


def test_views_that_are_drawn_in_either_domain_are_not_kept(tmp_path: Path, cache: FeatureCache) -> None:
    domains = pair(tmp_path, augmentation=Augmentation(flip=True))
    fit(tmp_path / "a", domains, adapting("coral", strategy=augmenting_probe()), cache)
    assert num_entries(cache) == 0
    turned = domains[1], domains[0]
    fit(tmp_path / "b", turned, adapting("shot", strategy=augmenting_probe()), cache)  # which sees no source image
    assert num_entries(cache) == 1


def test_a_target_with_few_labels_is_adapted_to_from_its_images(tmp_path: Path, cache: FeatureCache) -> None:
    fit(tmp_path / "a", pair(tmp_path, labels_per_class=1), adapting("coral"), cache)
    assert num_entries(cache) == 0


def test_both_domains_together_stay_within_the_limit(tmp_path: Path, cache: FeatureCache) -> None:
    domains = pair(tmp_path)
    of_one_image = 64 * 4  # bytes
    small = FeatureCache(cache.store, limit=119 * of_one_image)  # 48 + 12 + 60 are needed
    assert fit(tmp_path / "a", domains, adapting("coral"), small).steps == 14
    assert num_entries(cache) == 0
    views = adapting("coral", strategy=augmenting_probe(), augmented_views=2)
    augmented = pair(tmp_path, augmentation=Augmentation(flip=True))
    with pytest.raises(UserError, match=r"features.augmented_views=2: .* exceeds features.cache_limit_gib"):
        fit(tmp_path / "b", augmented, views, small)


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_scores_from_kept_features_are_those_of_the_images(
    tmp_path: Path, cache: FeatureCache, memory_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = tiny_domain(tmp_path, batch_size=512)
    net = mapped_network().to(memory_format=MEMORY_FORMATS[memory_format])
    with torch.no_grad():
        net.mapping.weight.add_(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))  # type: ignore[operator]
    assert evaluate(net, domain, "test", CPU, cache, memory_format) == evaluate(net, domain, "test", CPU)
    monkeypatch.setattr("graft.features.outputs", lambda *_: pytest.fail("computed again"))
    net.head.linear.bias.data[0] += 9.0  # type: ignore[union-attr, index]
    assert evaluate(net, domain, "test", CPU, cache, memory_format) == evaluate(net, domain, "test", CPU)
