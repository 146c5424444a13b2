"""Whether the parts of a configuration go together; each check yields a line for every error."""

from collections.abc import Callable, Iterator, Set
from functools import partial, reduce
from operator import getitem
from typing import Any

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch.optim import Optimizer

from graft.adaptation.base import Adaptation
from graft.adaptation.selection import LABEL_FREE, OF_SOURCE
from graft.build.assembly import (
    factory,
    make,
    make_adapter,
    make_domain,
    make_regularisers,
    make_strategy,
    without,
)
from graft.build.remember import remembered
from graft.build.targets import locate
from graft.callbacks.choices import ORACLE_RULE
from graft.callbacks.domains import FEWEST_IMAGES as FEWEST_FEATURES
from graft.callbacks.loggers import missing_package
from graft.errors import UserError, did_you_mean
from graft.models.adapters.base import Adapter
from graft.models.network import Network
from graft.processes import FSDP
from graft.regularisers.base import Need, Regulariser
from graft.stage import moved_prefix, trains_backbone
from graft.strategies.durations import Plateau
from graft.strategies.engine import make_optimizer
from graft.transferred import FEWEST_IMAGES

Config = dict[str, Any]
Check = Callable[[Config], Iterator[str]]

ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps", "tpu")
FOREIGN = ("fsdp_", "deepspeed", "model_parallel")  # strategies of Lightning that spread weights over processes
MONITORED = ("val/accuracy", "val/loss")
RULES = ("last", "best_val", *LABEL_FREE)
NO_RANGE_TEST = {  # optimisers for which a growing learning rate tells nothing, and why
    "LBFGS": "lbfgs searches the length of each step itself, or steps by curvature",
    "Rprop": "Rprop's learning rate is the length of its first steps only",
}
RESERVED = ("accuracy", "loss", "cross_entropy", "least_squares", "orthogonality")  # names in the training log


def check_source(config: Config) -> Iterator[str]:
    """Without a source, weights, mapping and strategy must not need one."""
    if config["source"]["_target_"] is not None:
        return
    if config["backbone"]["weights"] == "source" and config["strategy"]["initialize"] == "source":
        yield (
            "source=none: there is nothing to pretrain on; choose a source, strategy=scratch, "
            "or backbone.weights=<name, file or run>"
        )
    if config["mapping"]["_target_"].endswith(".AlignmentMapping"):
        yield "source=none: mapping=alignment brings the target's features onto the source's and needs a source"


def check_regularisers(config: Config) -> Iterator[str]:
    """Each regulariser finds what it needs, and terms of the loss have names of their own."""
    without_source = config["source"]["_target_"] is None
    mixing = [name for name in ("mixup", "cutmix") if (config["target"].get("augmentation") or {}).get(name)]
    for name, node in config["regulariser"].items():
        kind: Any = locate(node["_target_"])
        if not (isinstance(kind, type) and issubclass(kind, Regulariser)):
            yield f"regulariser.{name}: {node['_target_']} is no regulariser"
            continue
        needs: frozenset[Need] = kind.needs
        if name in RESERVED:
            yield f"regulariser.{name}: the training log has another {name}; expected a name of its own"
        if "source_weights" in needs and config["strategy"]["initialize"] == "scratch":
            yield (
                f"regulariser={name}: it keeps what was learned before, and strategy={config['strategy']['name']} "
                "begins with random weights"
            )
        elif "source_head" in needs and without_source:
            yield f"regulariser={name}: it needs the source's head, and there is none with source=none"
        elif "source_val" in needs and config["source"].get("val_fraction") == 0:
            yield f"regulariser={name}: it needs validation samples of the source; set source.val_fraction above 0"
        if "one_label_each" in needs and mixing:
            yield f"regulariser={name}: it needs samples of one class; set target.augmentation.{mixing[0]}=0"
        yield from _unfit_steps(f"regulariser={name}", needs, config)


def _unfit_steps(part: str, needs: Set[str], config: Config) -> Iterator[str]:
    if "single_pass" in needs and config["optimizer"]["_target_"].endswith(".LBFGS"):
        yield f"{part}: it needs one gradient a step, and optimizer=lbfgs takes as many as it likes"
    if "unscaled_gradients" in needs and config["precision"]["value"] == "16-mixed":
        yield f"{part}: it needs gradients of a loss that is not scaled; use precision=bf16-mixed or 32"


def check_adaptation(config: Config) -> Iterator[str]:
    """Adaptation has a source whose head it takes over, and nothing beside it that asks for the target's labels."""
    kinds = {name: locate(node["_target_"]) for name, node in config["adaptation"].items()}
    if not kinds:
        return
    for name, kind in kinds.items():
        if not (isinstance(kind, type) and issubclass(kind, Adaptation)):
            yield f"adaptation.{name}: {config['adaptation'][name]['_target_']} is no method of adaptation"
        if name in RESERVED or name in config["regulariser"]:
            yield f"adaptation.{name}: the training log has another {name}; expected a name of its own"
    said = f"adaptation={','.join(kinds)}: "
    yield from (said + reason for reason in _against_adaptation(config))
    source_free = [name for name, kind in kinds.items() if getattr(kind, "source_free", False)]
    others = [*(kinds.keys() - source_free), *config["regulariser"]]
    if source_free and others:
        yield f"{said}{source_free[0]} does without the source's samples, and {others[0]} needs them"


def check_label_space(config: Config) -> Iterator[str]:
    """Only adaptation compares classes, and confidence lies between 0 and 1."""
    kind, threshold = config["label_space"], config["unknown"]["threshold"]
    if kind != "closed" and not config["adaptation"]:
        yield f"label_space={kind}: without adaptation= the head is a new one, for the target's own classes"
    if not 0.0 <= threshold <= 1.0:
        yield f"unknown.threshold={threshold}: expected a number from 0 to 1"


def _against_adaptation(config: Config) -> Iterator[str]:
    """What else in a configuration adaptation does not go with."""
    source, target, strategy = config["source"], config["target"], config["strategy"]
    methods = config["adaptation"].values()
    if source["_target_"] is None:
        yield "it needs a source with labels, and there is none with source=none"
    if strategy["initialize"] == "scratch":
        yield f"it goes on from the source's network, and strategy={strategy['name']} begins with random weights"
    if hasattr(locate(config["mapping"]["_target_"]), "solve"):
        yield "it learns the mapping by steps, and this one is solved; use mapping=identity, affine or low_rank"
    if hasattr(locate(config["head"]["_target_"]), "solve"):
        yield "it trains the head by steps, and this one is solved from labels; use head=linear"
    if config["baselines"]:
        yield "it is compared with the source's network as it is; leave baselines=null"
    if target.get("balanced") and target.get("labels_per_class") is None and target.get("fraction") is None:
        yield "images without labels cannot be balanced; set target.balanced=false"
    mixing = next((name for name in ("mixup", "cutmix") if (target.get("augmentation") or {}).get(name)), None)
    if mixing:
        yield f"samples without labels are not mixed; set target.augmentation.{mixing}=0"
    if config["optimizer"].get("lr") == "auto":
        yield "the range test looks at one labelled domain; give optimizer.lr a number"
    if target.get("batch_size") == "auto":
        yield "the search looks at one labelled domain; give target.batch_size a number"
    if config["features"]["augmented_views"] and any("second_view" in needs_of(node) for node in methods):
        yield "it compares two views in a step, and fixed views come one an epoch; set features.augmented_views=0"
    if config["features"]["augmented_views"] and any(target.get(key) for key in ("labels_per_class", "fraction")):
        yield "a target with few labels is adapted to from its images; set features.augmented_views=0"
    for name, node in config["after"].items():
        if getattr(locate(node["_target_"]), "needs_val", False):
            yield f"after.{name} chooses by the target's labels; leave it out"
    for name, node in config["regulariser"].items():
        if needs_of(node) & {"second_view", "single_pass", "source_head"}:
            yield f"regulariser={name} is made for a labelled target; leave it out"


def needs_of(node: Config) -> frozenset[Need]:
    """What a regulariser or a method of adaptation needs; nothing where it is neither."""
    return getattr(locate(node["_target_"]), "needs", frozenset())


def check_rates(config: Config) -> Iterator[str]:
    """A learning rate that is to be found is one that a range test can find."""
    for path, node in (("optimizer", config["optimizer"]), ("pretrain.optimizer", config["pretrain"]["optimizer"])):
        reason = NO_RANGE_TEST.get(node["_target_"].rpartition(".")[2])
        if node.get("lr") == "auto" and reason is not None:
            yield f"{path}.lr=auto: {reason}; give {path}.lr a number"


def check_loggers(config: Config) -> Iterator[str]:
    """Loggers find the packages that they need."""
    for name, node in config["logger"].items():
        if package := missing_package(node["_target_"]):
            yield f"logger={name}: {package} is not installed; pip install 'graft[{package}]' brings it"


def check_name(config: Config) -> Iterator[str]:
    """The experiment's name becomes a folder."""
    name = config["name"]
    if name is not None and ("/" in name or name.startswith(".") or not name.strip()):
        yield f"name={name!r}; expected the name of a folder"


def check_checkpoints(config: Config) -> Iterator[str]:
    """Time passes forwards."""
    minutes = config["checkpoints"]["every_minutes"]
    if not minutes >= 0:
        yield f"checkpoints.every_minutes={minutes}; expected 0 (after every step) or more"


def check_features(config: Config) -> Iterator[str]:
    """The limit on kept features is one, and fixed views can be kept."""
    limit, num_views = config["features"]["cache_limit_gib"], config["features"]["augmented_views"]
    if limit < 0:
        yield f"features.cache_limit_gib={limit}; expected 0 (keep none) or more"
    if num_views < 0:
        yield f"features.augmented_views={num_views}; expected 0 (random views) or more"
    if num_views > 0 and limit == 0:
        yield f"features.augmented_views={num_views}: these are kept, but features.cache_limit_gib=0 keeps none"
    domains = ("source", "target") if config["adaptation"] else ("target",)
    parts = [(domain, name) for domain in domains for name in ("mixup", "cutmix")]
    mixing = [
        f"{domain}.augmentation.{name}"
        for domain, name in parts
        if (config[domain].get("augmentation") or {}).get(name)
    ]
    if num_views > 0 and mixing:
        yield (
            f"features.augmented_views={num_views}: a fixed view is one sample's own; "
            f"set {mixing[0]}=0, or ask for random views (0)"
        )


def check_analysis(config: Config) -> Iterator[str]:
    """CKA needs a few images."""
    num = config["analysis"]["cka_images"]
    if num != 0 and num < FEWEST_IMAGES:
        yield f"analysis.cka_images={num}; expected 0 (no CKA), or {FEWEST_IMAGES} or more"
    if config["analysis"]["projector_images"] < 0:
        yield f"analysis.projector_images={config['analysis']['projector_images']}; expected 0 (none) or more"


def check_feature_plots(config: Config) -> Iterator[str]:
    """Features of two domains need both, and a few images."""
    num, every = config["analysis"]["feature_images"], config["analysis"]["plot_every"]
    if num is not None and num != 0 and num < FEWEST_FEATURES:
        yield f"analysis.feature_images={num}; expected 0 (none), or {FEWEST_FEATURES} or more"
    if num and config["source"]["_target_"] is None:
        yield f"analysis.feature_images={num}: features of source and target are compared, and there is source=none"
    if every < 0:
        yield f"analysis.plot_every={every}; expected 0 (the start and the end alone) or more"
    if every > 0 and not (config["adaptation"] if num is None else num):
        yield f"analysis.plot_every={every}: no features are looked at; set analysis.feature_images=500"


def check_adapter(config: Config) -> Iterator[str]:
    """An adapter keeps weights worth keeping, in a layout that it can read."""
    name = config["adapter"].get("name")
    if config["adapter"]["_target_"] is None:
        return
    if config["strategy"]["initialize"] == "scratch":
        yield (
            f"adapter={name}: strategy={config['strategy']['name']} starts from random weights, which the adapter "
            "would keep for ever; use adapter=none, or a strategy that starts from the source"
        )
    for method, node in config["after"].items():
        if getattr(locate(node["_target_"]), "needs_start", False):
            yield f"after={method}: it averages the backbone's own weights, and adapter={name} leaves them as they are"
    kind = locate(config["adapter"]["_target_"])
    yield from _unfit_steps(f"adapter={name}", getattr(kind, "needs", frozenset()), config)
    if getattr(kind, "contiguous_only", False) and config["memory_format"] not in ("contiguous", None):
        yield f"adapter={name}: memory_format={config['memory_format']}: not with it; use memory_format=contiguous"


def check_epochs(config: Config) -> Iterator[str]:
    """There must be something to train for."""
    for path, value in (
        ("trainer.max_epochs", config["trainer"].get("max_epochs")),
        ("pretrain.max_epochs", config["pretrain"]["max_epochs"]),
    ):
        if value is None or value < 1:
            yield f"{path}={value}; expected 1 or more"


def check_monitors(config: Config) -> Iterator[str]:
    """Callbacks, plateaus and the selection rule look at metrics that exist."""
    monitors = {
        f"callbacks.{name}.monitor": node["monitor"] for name, node in config["callbacks"].items() if "monitor" in node
    }
    strategies = {"strategy": config["strategy"], "pretrain.strategy": config["pretrain"]["strategy"]}
    strategies |= {f"baselines.{name}": node for name, node in config["baselines"].items()}
    for path, node in strategies.items():
        strategy = _accepted(make_strategy, node)
        phases = strategy.parsed if strategy is not None else ()
        plateaus = {f"{path}.{phase.name}": phase.until for phase in phases if isinstance(phase.until, Plateau)}
        monitors |= {f"{where}: plateau.monitor": plateau.monitor for where, plateau in plateaus.items()}
        backward = [phase.name for phase in phases if phase.start_from == "best"]
        monitors |= {f"{path}.{name}: start_from=best of val/accuracy": "val/accuracy" for name in backward}
    for path, monitor in monitors.items():
        if monitor not in MONITORED:
            yield f"{path}={monitor}: there is no such metric; {did_you_mean(str(monitor), MONITORED)}"
    needs_val = [*monitors, *(["selection.rule=best_val"] if config["selection"]["rule"] == "best_val" else [])]
    domain = "source" if config["adaptation"] else "target"
    if needs_val and config[domain].get("val_fraction") == 0:
        yield f"{domain}.val_fraction=0: {needs_val[0]} needs validation samples"


def check_selection(config: Config) -> Iterator[str]:
    """The rule is one, and has epochs and images to choose by."""
    how = config["selection"]
    rule, images, asked = how["rule"], how["images"], f"selection.rule={how['rule']}"
    if rule == ORACLE_RULE:
        yield f"{asked}: it looks at the labels of the test split, and is shown beside a rule by selection.oracle=true"
    elif rule not in RULES:
        yield f"{asked}: there is no such rule; {did_you_mean(rule, RULES)}"
    if images < 0 or images == 1:
        yield f"selection.images={images}; expected 0 (no label-free rules), or 2 or more"
    if how["every"] < 1:
        yield f"selection.every={how['every']}; expected 1 or more"
    wanted = [asked] if rule in LABEL_FREE else ["selection.oracle=true"] if how["oracle"] else []
    if wanted and not config["adaptation"]:
        yield f"{wanted[0]}: it is for adaptation, and there is none; use selection.rule=last or best_val"
    elif wanted and images == 0:
        yield f"{wanted[0]}: selection.images=0 scores no epoch; set it to 2 or more"
    if rule in OF_SOURCE and config["source"].get("val_fraction") == 0:
        yield f"source.val_fraction=0: {asked} needs validation samples"


def check_after(config: Config) -> Iterator[str]:
    """What comes after training finds what it needs: validation samples, weights to go back to."""
    for name, node in config["after"].items():
        method = _accepted(make, node)
        if method is None:
            continue
        if method.needs_val and config["target"].get("val_fraction") == 0:
            yield f"target.val_fraction=0: after.{name} needs validation samples"
        strategy = config["strategy"]
        if method.needs_start and strategy["initialize"] == "scratch":
            yield f"after.{name}: strategy {strategy['name']!r} starts from random weights, nothing to go back to"
        if method.needs_start and _trains_nothing(config):
            yield f"after.{name}: adaptation={','.join(config['adaptation'])} leaves the weights as they started"


def _trains_nothing(config: Config) -> bool:
    kinds = [locate(node["_target_"]) for node in config["adaptation"].values()]
    return bool(kinds) and not any(getattr(kind, "trains", True) for kind in kinds)


def _against_fsdp(config: Config) -> Iterator[str]:
    """What looks at weights as a whole in the middle of a fit."""
    said = f"trainer.strategy={FSDP}: each process has a share of every weight, and "
    for group in ("adaptation", "regulariser"):
        if config[group]:
            yield f"{said}{group}={','.join(config[group])} needs all of them; use trainer=ddp"
    if config["memory_format"] not in ("contiguous", None):
        yield f"{said}torch splits no others than contiguous ones; use memory_format=contiguous"
    adapter = config["adapter"]["_target_"] and locate(config["adapter"]["_target_"])
    if getattr(adapter, "companion", Adapter.companion) is not Adapter.companion:
        yield f"{said}adapter={config['adapter']['name']} needs all of them; use trainer=ddp"
    for name, node in config["callbacks"].items():
        kind = locate(node["_target_"])
        if isinstance(kind, type) and issubclass(kind, WeightAveraging):
            yield f"{said}callbacks={name} averages all of them; use trainer=ddp"
    if config["optimizer"]["_target_"].endswith(".LBFGS"):
        yield f"{said}optimizer=lbfgs searches along all of them; use trainer=ddp"


def check_device(config: Config) -> Iterator[str]:
    """The accelerator is there, and knows the precision."""
    trainer = config["trainer"]
    accelerator, devices = trainer.get("accelerator", "auto"), trainer.get("devices", "auto")
    precision = config["precision"]["value"]
    if accelerator not in ACCELERATORS:
        yield f"trainer.accelerator={accelerator}: {did_you_mean(str(accelerator), ACCELERATORS)}"
        return
    strategy = str(trainer.get("strategy", "auto"))
    if strategy.startswith(FOREIGN):
        yield (
            f"trainer.strategy={strategy}: it keeps a part of each weight in each process, and graft's checkpoints, "
            "thaws and evaluation take weights as a whole; use trainer=fsdp, which brings them together"
        )
    if strategy == FSDP:
        yield from _against_fsdp(config)
    num_gpus = torch.cuda.device_count()
    if accelerator in ("gpu", "cuda") and num_gpus == 0:
        yield f"trainer.accelerator={accelerator}: torch finds no GPU here; use trainer=auto or trainer=cpu"
    elif accelerator in ("gpu", "cuda") and isinstance(devices, int) and devices > num_gpus:
        yield f"trainer.devices={devices}: this machine has {num_gpus}"
    elif accelerator == "mps" and not torch.backends.mps.is_available():
        yield "trainer.accelerator=mps: torch finds no such GPU here; use trainer=auto or trainer=cpu"
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not num_gpus and not torch.backends.mps.is_available())
    if on_cpu and precision in ("16-mixed", "16-true"):
        yield f"precision={precision}: not on a CPU; use precision=bf16-mixed or precision=32"
    if precision == "16-mixed" and trainer.get("gradient_clip_val") and config["optimizer"].get("fused"):
        yield f"precision={precision} with trainer.gradient_clip_val: not with fused kernels; use optimizer.fused=false"
    if accelerator == "mps" and precision == "64-true":
        yield f"precision={precision}: not on mps; use precision=32"


def refused_parts(config: Config, broken: Set[str]) -> Iterator[str]:
    """Each part that does not accept its own values."""
    stage = ("strategy", "objective", "scheduler")
    paths = ["source", "target", *stage, *(f"pretrain.{name}" for name in stage), "backbone", "adapter"]
    if "after" not in broken:
        paths += [f"after.{name}" for name in config["after"]]
    if "baselines" not in broken:
        paths += [f"baselines.{name}" for name in config["baselines"]]
    for group in ("regulariser", "adaptation"):
        if group not in broken:
            paths += [f"{group}.{name}" for name in config[group]]
    for path in paths:
        if path.partition(".")[0] not in broken:
            node = reduce(getitem, path.split("."), config)
            yield from remembered(f"refused {path}", node, partial(_refusals, path, node))


def _refusals(path: str, node: Config) -> list[str]:
    is_domain = path in ("source", "target")
    makers = {"source": make_domain, "target": make_domain, "backbone": _make_backbone, "adapter": make_adapter}
    maker = makers.get(path, make)
    try:
        _without_memory(lambda: maker(node))
    except Exception as error:
        cause = _user_error(error)
        if cause is None:
            raise
        return [f"{path}: {cause}" if is_domain else str(cause)]
    return []


def _make_backbone(node: Config) -> Any:
    return factory(without(node, "weights", "reinitialise"))()


def _user_error(error: BaseException | None) -> UserError | None:
    """The UserError that `instantiate` wrapped, None where something else went wrong."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error


def _accepted(maker: Callable[[Config], Any], node: Config) -> Any:
    """The part, None where it is refused; `refused_parts` says why."""
    try:
        return maker(node)
    except Exception as error:
        if _user_error(error) is None:
            raise
        return None


def _unfit_strategies(config: Config) -> Iterator[str]:
    try:
        network = _without_memory(lambda: _network(config))
        is_plain = config["adapter"]["_target_"] is None
        adapted = network if is_plain else _without_memory(lambda: _adapted_network(config))
    except UserError as error:
        yield str(error)
        return
    yield from _unfit_regularisers(config, adapted)
    yield from _unfit_after(config, adapted)
    pretrain, max_epochs = config["pretrain"], config["trainer"]["max_epochs"]
    plans = [(adapted, config["strategy"], max_epochs, config["optimizer"])]
    plans += [(network, strategy, max_epochs, config["optimizer"]) for strategy in config["baselines"].values()]
    if config["source"]["_target_"] is not None and config["strategy"]["initialize"] == "source":
        plans.append((network, pretrain["strategy"], pretrain["max_epochs"], pretrain["optimizer"]))
    for trained, strategy, max_epochs, optimizer in plans:
        try:
            phases = make_strategy(strategy).resolve(trained, max_epochs)
            if strategy is config["strategy"] and not any(map(trains_backbone, phases)):
                yield from _without_way_back(config)
            for phase in phases:
                if phase.trained_names:
                    make_optimizer(trained, phase, _for_shapes(factory(optimizer)))
        except ValueError as error:  # ours, or the optimizer's about a value it does not take
            yield str(error) if isinstance(error, UserError) else f"optimizer: {error}"


def _without_way_back(config: Config) -> Iterator[str]:
    for name, node in config["after"].items():
        if make(node).needs_start:
            yield f"after.{name}: strategy {config['strategy']['name']!r} leaves the backbone as it started"


def _unfit_regularisers(config: Config, network: Network) -> Iterator[str]:
    try:
        phases = make_strategy(config["strategy"]).resolve(network, config["trainer"]["max_epochs"])
    except UserError:  # said where the strategies are tried
        return
    methods = {
        f"{group}={name}": method
        for group in ("adaptation", "regulariser")
        for name, method in make_regularisers(config[group]).items()
    }
    for said, method in methods.items():
        try:
            method.check(network, phases)
        except UserError as error:
            yield f"{said}: {error}"
            continue
        if config["features"]["augmented_views"] and "starting_network" in method.needs:
            augmenting = [phase for phase in phases if phase.augment]
            moved = [phase.name for phase in augmenting if moved_prefix(network, phases[: phase.index + 1], phase)]
            if moved:
                yield (
                    f"{said}: phase {moved[0]!r} freezes what was changed before it, so that the starting "
                    "network must see its images; set features.augmented_views=0"
                )


def _unfit_after(config: Config, network: Network) -> Iterator[str]:
    for name, node in config["after"].items():
        try:
            make(node).check(network)
        except UserError as error:
            yield f"after={name}: {error}"


def _for_shapes(optimizer: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """The optimizer without its fused kernels, which refuse parameters that have no memory, and at some rate."""
    settings = {name: value for name, value in getattr(optimizer, "keywords", {}).items() if name != "fused"}
    settings |= {"lr": 1.0} if settings.get("lr") == "auto" else {}
    return partial(getattr(optimizer, "func", optimizer), **settings)


def _network(config: Config) -> Network:
    backbone = _make_backbone(config["backbone"])
    mapping = factory(config["mapping"])(backbone.num_features)
    return Network(backbone, mapping, factory(config["head"])(mapping.num_outputs, 2))


def _adapted_network(config: Config) -> Network:
    """The transfer stage's network, for inputs of the size that the backbone says."""
    network, adapter = _network(config), make_adapter(config["adapter"])
    assert adapter is not None
    network.backbone = adapter.adapt(network.backbone, network.backbone.preprocessing.size)
    return network


def _without_memory(build: Callable[[], Any]) -> Any:
    """What `build` makes, its weights mere shapes where its code allows that."""
    try:
        with torch.device("meta"):
            return build()
    except Exception as error:
        if _user_error(error) is not None:
            raise
        return build()


CHECKS: tuple[tuple[Check, tuple[str, ...]], ...] = (  # with the parts that each looks at
    (check_source, ("source", "backbone", "strategy", "mapping")),
    (check_regularisers, ("regulariser", "source", "target", "strategy", "optimizer", "precision")),
    (
        check_adaptation,
        (
            *("adaptation", "regulariser", "source", "target", "strategy", "mapping", "head", "baselines"),
            *("optimizer", "features", "after"),
        ),
    ),
    (check_label_space, ("label_space", "unknown", "adaptation")),
    (check_rates, ("optimizer", "pretrain")),
    (check_name, ("name",)),
    (check_loggers, ("logger",)),
    (check_checkpoints, ("checkpoints",)),
    (check_features, ("features", "source", "target", "adaptation")),
    (check_analysis, ("analysis",)),
    (check_feature_plots, ("analysis", "source", "adaptation")),
    (check_adapter, ("adapter", "strategy", "memory_format", "after", "optimizer", "precision")),
    (check_epochs, ("trainer", "pretrain")),
    (check_monitors, ("callbacks", "source", "adaptation", "strategy", "pretrain", "baselines", "selection", "target")),
    (check_selection, ("selection", "adaptation", "source")),
    (check_device, ("trainer", "precision", "optimizer")),
    (check_after, ("after", "strategy", "target", "adaptation")),
)


PARTS_THAT_FIT = (
    "backbone",
    "adapter",
    "mapping",
    "head",
    "strategy",
    "baselines",
    "optimizer",
    "regulariser",
    "adaptation",
    "after",
    "features",
)


def check_all(config: Config, broken: Set[str]) -> Iterator[str]:
    """Everything that can be judged where the parts `broken` have errors already."""
    for check, parts in CHECKS:
        if broken.isdisjoint(parts):
            yield from check(config)
    refused = list(refused_parts(config, broken))
    yield from refused
    if not broken and not refused and not list(check_epochs(config)):
        yield from remembered("unfit strategies", _decides_fit(config), lambda: list(_unfit_strategies(config)))


def _decides_fit(config: Config) -> list[Any]:
    """All of a configuration that decides whether its strategies fit its network: no seed, no data."""
    parts = [config[name] for name in PARTS_THAT_FIT]
    stages = [config["trainer"]["max_epochs"], without(config["pretrain"], "seed"), config["source"]["_target_"]]
    return [*parts, *stages]
