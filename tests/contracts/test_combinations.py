"""Any strategy with any adapter and any regulariser of `conf`, on a plain network, a ResNet, a MobileNet and a ViT.

Every combination is judged as before a run; of those accepted, enough are trained for a step or two that every two
names that go together have met.
"""

import copy
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from builders import ON_THE_NETWORK, small_mobilenet, stage, tiny_domain, tiny_vit, training, write_arrays
from conf_plugins import build, load, names
from hydra.core.config_loader import ConfigLoader
from torch import Tensor, nn

from graft.build.assembly import make_adapter
from graft.build.checks import check_adapter, check_regularisers
from graft.build.validation import validate
from graft.cli.compose import compose
from graft.data.domain import Domain
from graft.errors import UserError
from graft.features import FeatureCache
from graft.models.backbones.base import Backbone
from graft.models.backbones.cnn import Cnn
from graft.models.backbones.resnet_cifar import ResNetCifar
from graft.models.heads.linear import LinearHead
from graft.models.mappings.identity import IdentityMapping
from graft.models.network import Network, initial_weights
from graft.objectives.supervised import Outputs
from graft.records.store import Store
from graft.regularisers.base import Beginning, Origin, Regularisation, Regulariser, Step, frozen_copy
from graft.stage import Fitted, Stage, State, fit_stage, inference
from graft.strategies.phases import ResolvedPhase, Strategy

SIZE = 32
BODIES: dict[str, Callable[[], Backbone]] = {
    "cnn": Cnn,
    "resnet20": lambda: ResNetCifar(depth=20),
    "mobilenet_v2": small_mobilenet,
    "vit": tiny_vit,
}
EPOCHS = 12  # enough for the phases of every strategy on each of them

# All that may speak against a combination.
REASONS = (
    "starts from random weights, which the adapter would keep",
    "can take it",  # no layer of the backbone
    "trains nothing that adapter=",
    "no normalisation layers",
    "begins with random weights",
    "trains only the head",
    "trains none of them",
    "are no functions one after another",
    "acts on batch norms",
)
SMALLEST_SCALE = 1e-3  # of the learning rate, whose steps show beside weights of about 1 in float32


class Combination(NamedTuple):
    body: str
    strategy: str
    adapter: str
    regulariser: str

    @property
    def pairs(self) -> set[tuple[str, str]]:
        parts = [f"{kind}={name}" for kind, name in zip(self._fields, self, strict=True)]
        return set(combinations(parts, 2))


COMBINATIONS = [
    Combination(*parts) for parts in product(BODIES, names("strategy"), names("adapter"), names("regulariser"))
]


@cache
def network(body: str, adapter: str) -> Network:
    """Not to be changed. Its norm layers hold the statistics of some batch, as if it had been trained."""
    with initial_weights(0, body):
        backbone = BODIES[body]()
        norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the mean over all batches seen, which is one
        with torch.no_grad():
            backbone.train()(torch.randn(8, 3, SIZE, SIZE))
        for norm in norms:
            norm.momentum = 0.1
        made = make_adapter(load("adapter", adapter))
        if made is not None:
            backbone = made.adapt(backbone, SIZE)
        return Network(backbone, IdentityMapping(backbone.num_features), LinearHead(backbone.num_features, 3))


@cache
def strategy(name: str) -> Strategy:
    made: Strategy = build(load("strategy", name))
    return made


@cache
def regularisers(name: str) -> dict[str, Regulariser]:
    return {key: build(node) for key, node in load("regulariser", name).items()}


def refusal(judge: Callable[..., object], *about: object) -> list[str]:
    """What a UserError says; any other error is raised."""
    try:
        judge(*about)
    except UserError as error:
        return [str(error)]
    return []


@cache
def phases_of(body: str, strategy_name: str, adapter: str) -> tuple[ResolvedPhase, ...]:
    return strategy(strategy_name).resolve(network(body, adapter), EPOCHS)


@cache
def unfit(body: str, strategy_name: str, adapter: str) -> tuple[str, ...]:
    """What speaks against adapter, or strategy and adapter, on this body."""
    return tuple(refusal(network, body, adapter) or refusal(phases_of, body, strategy_name, adapter))


load_once = cache(load)
DEFAULTS: dict[str, Any] = {  # of what else has a say
    "source": {"_target_": "a domain"},
    "target": {},
    "optimizer": {"_target_": "torch.optim.AdamW"},
    "precision": {"value": "32"},
    "memory_format": "contiguous",
    "after": {},
}


@cache
def errors_of(combination: Combination) -> tuple[str, ...]:
    """What validation says of it, a line for each thing that does not go together."""
    body, strategy_name, adapter, regulariser = combination
    groups = ("strategy", "adapter", "regulariser")
    config = DEFAULTS | {group: load_once(group, getattr(combination, group)) for group in groups}
    errors = [*check_adapter(config), *check_regularisers(config), *unfit(body, strategy_name, adapter)]
    if not unfit(body, strategy_name, adapter):
        fitting = network(body, adapter), phases_of(body, strategy_name, adapter)
        for name, made in regularisers(regulariser).items():
            errors += [f"regulariser={name}: {reason}" for reason in refusal(made.check, *fitting)]
    return tuple(errors)


@cache
def accepted() -> tuple[Combination, ...]:
    return tuple(combination for combination in COMBINATIONS if not errors_of(combination))


@cache
def chosen() -> tuple[Combination, ...]:
    """Few in which every two names that are accepted together meet: the bodies in turn, each the one with most new."""
    pairs = {combination: combination.pairs for combination in accepted()}
    left = set().union(*pairs.values())
    found: list[Combination] = []
    while left:
        for body in BODIES:
            best = max(
                (combination for combination in accepted() if combination.body == body),
                key=lambda combination: len(pairs[combination] & left),
            )
            if pairs[best] & left:
                found.append(best)
                left -= pairs[best]
    return tuple(found)


def test_every_combination_is_accepted_or_refused_for_a_known_reason() -> None:
    refused = {combination: errors for combination in COMBINATIONS if (errors := errors_of(combination))}
    given = {reason: [error for error in set().union(*refused.values()) if reason in error] for reason in REASONS}
    assert all(given.values())
    assert set().union(*given.values()) == set().union(*refused.values())
    assert {body for body, *_ in accepted()} == set(BODIES)


def test_every_name_is_accepted_somewhere_and_meets_every_body_with_what_fits_it() -> None:
    names_run = [set(column) for column in zip(*chosen(), strict=True)]
    assert names_run == [set(BODIES), *(set(names(group)) for group in ("strategy", "adapter", "regulariser"))]


BACKBONE_WORDS = {  # the vision transformer is none of conf
    "cnn": ["backbone=cnn"],
    "resnet20": ["backbone=resnet20"],
    "mobilenet_v2": ["backbone=mobilenet_v2", "source=glyphs", "backbone.weights=source", f"backbone.size={SIZE}"],
}


@pytest.mark.parametrize("body", BACKBONE_WORDS)
def test_validation_says_the_same(body: str, loader: ConfigLoader) -> None:
    """Of one accepted combination and one for each reason and kind of part."""
    examples: dict[tuple[str, ...], Combination] = {}
    for combination in COMBINATIONS:
        if combination.body == body:
            reasons = tuple(reason for reason in REASONS if any(reason in line for line in errors_of(combination)))
            examples.setdefault(reasons, combination)
    for combination in examples.values():
        words = [f"{group}={name}" for group, name in combination._asdict().items() if group != "body"]
        config = compose(loader, [*words, *BACKBONE_WORDS[body], f"trainer.max_epochs={EPOCHS}"])
        assert without_counts(validate(config)) == without_counts(errors_of(combination)), combination


def without_counts(errors: Iterable[str]) -> list[str]:
    """Sorted, without the number of layers: the MobileNet of conf has more of them than the one here."""
    return sorted(re.sub(r"\d+ left out", "left out", error) for error in errors)


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    """Nine images of three classes to train on, a batch."""
    folder = tmp_path_factory.mktemp("domain")
    write_arrays(folder / "tiny.npz", num_per_class=4)
    return tiny_domain(folder, val_fraction=0.25)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def trained_network(combination: Combination) -> Network:
    """With adapters moved off a start at which some of their weights have no gradient."""
    own = copy.deepcopy(network(combination.body, combination.adapter))
    brought = own.backbone.adaptation.added if own.backbone.adaptation else frozenset()
    with torch.no_grad(), initial_weights(0, "moved"):
        for name, _, parameter in own.named_group_parameters():
            if name.removeprefix("backbone.") in brought:
                parameter += 0.05 * torch.randn_like(parameter)
    return own


def few_samples(name: str) -> dict[str, Regulariser]:
    """The regularisers of a YAML, looking at few images where they look at some beforehand."""
    few = {"num_samples": 2, "num_images": 2}
    return {
        key: build(node | {setting: few[setting] for setting in few.keys() & node.keys()})
        for key, node in load("regulariser", name).items()
    }


def short_stage(combination: Combination, folder: Path, domain: Domain, store: Store) -> Stage:
    """An epoch of one batch for each phase."""
    num_phases = len(phases_of(*combination[:3]))
    how = training(optimizer=partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1), max_epochs=num_phases)
    how = replace(how, strategy=strategy(combination.strategy), regularisers=few_samples(combination.regulariser))
    with initial_weights(0, "source head"):
        head = LinearHead(network(combination.body, combination.adapter).backbone.num_features, 4)
    whole = stage(folder, domain, how, cache=FeatureCache(store, 2**30))
    return replace(whole, origin=Origin(head, domain, store))


def phases_run(short: Stage, fitted: Fitted, own: Network) -> tuple[ResolvedPhase, ...]:
    """With the layer group that `groups: auto` was found to stand for."""
    how = short.training
    groups = fitted.chosen.get("groups", how.strategy.groups)
    return replace(how.strategy, groups=groups).resolve(own, how.max_epochs)


def largest_scales(phases: tuple[ResolvedPhase, ...]) -> dict[str, float]:
    """Of the learning rate that each parameter had in any phase, by name; 0 for one that is never trained."""
    scales: dict[str, float] = {}
    for phase in phases:
        for entry in phase.assignments:
            scales[entry.name] = max(scales.get(entry.name, 0.0), entry.lr_scale or 0.0)
    return scales


def re_estimated(own: Network, phases: tuple[ResolvedPhase, ...]) -> set[nn.Module]:
    """The norm layers whose running statistics are to move: those trained, or all of the backbone."""
    layers = {module for module in own.backbone.modules() if getattr(module, "running_mean", None) is not None}
    if any(phase.recalibrate or phase.norm_statistics == "train" for phase in phases):
        return layers
    following = tuple(phase for phase in phases if phase.norm_statistics == "follow")
    scales = largest_scales(following)
    trained = {id(parameter) for name, _, parameter in own.named_group_parameters() if scales.get(name)}
    return {layer for layer in layers if any(id(parameter) in trained for parameter in layer.parameters())}


def pull(short: Stage, start: State, own: Network) -> Tensor | None:
    """The regularisers' terms on a few images, whose gradients are now in the network; None without terms."""
    how = inference(short.training, short.training.plain_trainer(), own)
    beginning = Beginning(frozen_copy(own, start), short.domain, short.origin, how, short.seed)
    regularisation = Regularisation(short.training.regularisers, beginning)
    x, y = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3
    trace = regularisation.trace(own.eval(), x, 0)
    outputs = Outputs(own.head(trace.features), trace.features)
    step = Step(own, y, outputs, trace, regularisation.starting_trace(x, 0), second=x)
    regularisation(step)  # for those that compare a batch with the one before
    terms = regularisation(step)
    if not terms:
        return None
    total = sum(terms.values(), torch.zeros(()))
    own.zero_grad()
    total.backward()
    return total


@pytest.mark.parametrize("strategy_name", names("strategy"))
def test_what_is_accepted_trains_what_it_says_and_nothing_else(
    strategy_name: str, tmp_path: Path, domain: Domain, store: Store
) -> None:
    for index, combination in enumerate(chosen()):
        if combination.strategy == strategy_name:
            try:
                check_run(combination, short_stage(combination, tmp_path / str(index), domain, store))
            except BaseException as error:
                error.add_note(str(combination))
                raise


def check_run(combination: Combination, short: Stage) -> None:
    own = trained_network(combination)
    start = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    before = {name: parameter.detach().clone() for name, _, parameter in own.named_group_parameters()}
    buffers = {name: buffer.clone() for name, buffer in own.named_buffers(remove_duplicate=False)}
    fitted = fit_stage(short, own)
    phases = phases_run(short, fitted, own)
    assert [row["phase_index"] for row in fitted.history] == list(range(short.training.max_epochs))
    assert all(torch.isfinite(tensor).all() for tensor in fitted.last.values())

    scales = largest_scales(phases)
    assert not [name for name in own.fixed_names if scales[name]]
    for name, _, parameter in own.named_group_parameters():
        unchanged = torch.equal(parameter, before[name])
        assert unchanged or scales[name], f"{name} is fixed and was changed"
        assert not unchanged or scales[name] < SMALLEST_SCALE, f"{name} is trained and was not changed"

    moving = re_estimated(own, phases)
    for path, module in own.named_modules():
        own_buffers = dict(module.named_buffers(path, recurse=False))
        changed = [name.rpartition(".")[2] for name, buffer in own_buffers.items() if not buffers[name].equal(buffer)]
        assert {"running_mean", "running_var"} <= set(changed) if module in moving else not changed, (module, changed)

    for name in short.training.regularisers:
        terms = [row.get(f"train/{name}") for row in fitted.history]
        assert all((term is None) == (name in ON_THE_NETWORK) for term in terms)
    if pull(short, start, own) is not None:
        pulled = [p for name, _, p in own.named_group_parameters() if scales[name] and p.grad is not None]
        assert any(p.grad.any() for p in pulled), "the regulariser has no effect on what is trained"
