"""From a validated configuration to an Experiment: the one place where objects are made from names."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from pytorch_lightning import Callback

from graft.adaptation.selection import Selection
from graft.build.remember import remembered
from graft.build.targets import arguments_of
from graft.data.domain import Domain
from graft.experiment import Experiment, FeaturePlots, Training
from graft.inference.trained import Blueprint
from graft.models.adapters.base import Adapter
from graft.processes import FSDP
from graft.scores.base import Score
from graft.strategies.phases import Strategy

Config = dict[str, Any]

FEATURE_IMAGES = 500  # of both domains, whose features are looked at where a run adapts


def build_experiment(config: Config) -> Experiment:
    """The experiment that a plain, resolved and validated configuration describes; nothing is read or trained.

    Raises:
        UserError: a value that fits its type but not its purpose.
    """
    backbone, pretrain, target = config["backbone"], config["pretrain"], make_domain(config["target"])
    assert target is not None, "validation refuses target=none"
    adapter = make_adapter(config["adapter"])
    return Experiment(
        name=experiment_name(config),
        seed=config["seed"],
        source=make_domain(config["source"]),
        target=target,
        backbone=factory(without(backbone, "weights", "reinitialise")),
        weights=backbone["weights"],
        reinitialise=tuple(backbone["reinitialise"]),
        mapping=factory(config["mapping"]),
        adapter=adapter,
        head=factory(config["head"]),
        pretrain=make_training(config, pretrain, pretrain["max_epochs"], pretrain["seed"]),
        transfer=replace(
            make_training(config, config, config["trainer"]["max_epochs"], config["seed"]),
            memory_format=memory_format(config, adapter),
            augmented_views=config["features"]["augmented_views"],
            regularisers=make_regularisers(config["regulariser"]),
            adaptation=make_regularisers(config["adaptation"]),
        ),
        baselines={name: make_strategy(node) for name, node in config["baselines"].items()},
        after={name: make(node) for name, node in config["after"].items()},
        selection=Selection(**config["selection"]),
        loggers={name: factory(node) for name, node in config["logger"].items()},
        store=Path(config["paths"]["store"]).expanduser(),
        features_limit=int(config["features"]["cache_limit_gib"] * 2**30),
        cka_images=config["analysis"]["cka_images"],
        feature_plots=make_feature_plots(config),
        projector_images=config["analysis"]["projector_images"],
        config=config,
    )


def build_blueprint(config: Config) -> Blueprint:
    """What the target network of a plain, resolved configuration is built of; the rest of it may be missing."""
    return Blueprint(
        backbone=factory(without(config["backbone"], "weights", "reinitialise")),
        mapping=factory(config["mapping"]),
        adapter=make_adapter(config["adapter"]),
        head=factory(config["head"]),
    )


def make_feature_plots(config: Config) -> FeaturePlots:
    """How features are looked at; unless said otherwise, only where a run adapts."""
    analysis = config["analysis"]
    num: int | None = analysis["feature_images"]
    default = FEATURE_IMAGES if config["adaptation"] else 0
    return FeaturePlots(default if num is None else num, analysis["plot_every"], analysis["projection"])


def experiment_name(config: Config) -> str:
    """The experiment's own name, or one made of source and target."""
    if config["name"] is not None:
        return str(config["name"])
    source, target = config["source"], config["target"]["name"]
    return f"{source['name']}_to_{target}" if source["_target_"] is not None else str(target)


def make_training(config: Config, stage: Config, max_epochs: int, seed: int) -> Training:
    """How one stage is trained: its own objective, optimizer, schedule and strategy under the common trainer."""
    return Training(
        strategy=make_strategy(stage["strategy"]),
        objective=make(stage["objective"]),
        optimizer=factory(stage["optimizer"]),
        schedule=make(stage["scheduler"]),
        trainer=factory(config["trainer"]),
        precision=config["precision"]["value"],
        memory_format=memory_format(config),
        max_epochs=max_epochs,
        seed=seed,
        callbacks=partial(make_callbacks, config["callbacks"]),
        save_every=60 * config.get("checkpoints", {}).get("every_minutes", math.inf),  # some records lack it
    )


def memory_format(config: Config, adapter: Adapter | None = None) -> str:
    """The one asked for; by default what is mostly the faster for convolutions, where adapter and FSDP allow it."""
    asked: str | None = config["memory_format"]
    contiguous_only = (adapter is not None and adapter.contiguous_only) or config["trainer"].get("strategy") == FSDP
    return asked or ("contiguous" if contiguous_only else "channels_last")


def make_strategy(node: Config) -> Strategy:
    """The strategy; one for all runs that name it, since nothing in it changes."""
    return remembered("strategy", node, lambda: make(node))


def make_scores(nodes: Config) -> dict[str, Score]:
    """The transferability scores by name."""
    return {name: factory(node) for name, node in nodes.items()}


def make_regularisers(nodes: Config) -> dict[str, Any]:
    """The regularisers, or methods of adaptation, by name, in an order of their own: their terms are summed in it."""
    return {name: make(nodes[name]) for name in sorted(nodes)}


def make_callbacks(nodes: Config) -> list[Callback]:
    """Fresh callbacks for one fit."""
    return [make(node) for node in nodes.values() if node["_target_"] is not None]


def make_domain(node: Config) -> Domain | None:
    """The domain, None for `_target_: null`; keys that only stand there to be passed down are left out."""
    if node["_target_"] is None:
        return None
    accepted = arguments_of(node["_target_"])
    settings = {key: value for key, value in node.items() if key in accepted or key.startswith("_")}
    if "parts" not in settings:
        domain: Domain = make(settings)
        return domain
    parts = {name: make_domain(part) for name, part in settings["parts"].items()}
    several: Domain = factory(without(settings, "parts"))(parts=parts)
    return several


def make_adapter(node: Config) -> Adapter | None:
    """The adapter, None for `_target_: null`."""
    return None if node["_target_"] is None else make(node)


def make(node: Config) -> Any:
    """The object that a node describes, or with `_partial_` what makes it."""
    made = factory(node)
    return made if node.get("_partial_") else made()


def factory(node: Config) -> "partial[Any]":
    """The object that a node describes, once the remaining arguments are given; can be pickled."""
    parts = {name: value for name, value in node.items() if isinstance(value, dict) and value.get("_target_")}
    plain = without(node, *parts)
    if any(isinstance(value, dict) for value in plain.values()):  # perhaps with an object, which is one run's alone
        made = _factory(plain)
    else:
        made = remembered("factory", plain, lambda: _factory(plain))
    function = Assembled(made.func, parts) if parts else made.func
    return partial(function, *made.args, **deepcopy(made.keywords))


@dataclass(frozen=True)
class Assembled:
    """A class or function with the nodes of those arguments that are objects, of which every call gets fresh ones."""

    function: Callable[..., Any]
    parts: Config

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """What the function makes of all of them."""
        return self.function(*args, **{name: make(node) for name, node in self.parts.items()}, **keywords)


def _factory(node: Config) -> "partial[Any]":
    made = instantiate(node | {"_partial_": True}, _convert_="all")
    return partial(made.func, *made.args, **made.keywords)


def without(node: Config, *names: str) -> Config:
    """The node without the keys that are not arguments."""
    return {key: value for key, value in node.items() if key not in names}
