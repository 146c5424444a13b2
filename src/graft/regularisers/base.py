"""What every regulariser says of itself and is given, and all regularisers of a stage as one module."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from graft.batch import LabelledBatch
from graft.data.domain import Domain
from graft.errors import UserError
from graft.features import FeatureDomain, Inference, view_of
from graft.models.adapters.base import Companion, StepNeed, companion_of
from graft.models.backbones.base import SequentialBackbone
from graft.models.heads.linear import LinearHead
from graft.models.network import Network
from graft.objectives.supervised import Outputs
from graft.records.store import Store
from graft.strategies.phases import ResolvedPhase

PREFIX = "regularisation."  # of the regularisation's state in the module's

Need = (
    StepNeed
    | Literal[
        "source_weights",  # a backbone that was trained before
        "source_head",  # the head that the source stage trained on that backbone
        "starting_network",  # in every step, the outputs of the network as the stage began
        "layer_groups",  # in every step, the outputs of the backbone's layer groups
        "second_view",  # in every step, another training view of the same images
        "source_val",  # validation samples of the source
        "trained_features",  # some phase trains what makes the features
        "one_label_each",  # no mixture of images
        "whole_batch",  # a batch in one piece: what it does is no mean over images
    ]
)


class Trace(NamedTuple):
    """What a network makes of a batch on its way to logits."""

    backbone_features: Tensor  # [n, d]
    features: Tensor  # [n, d'], mapped
    groups: dict[str, Tensor]  # outputs [n, ...] of the layer groups that were run, by `backbone.<group>`


class Unlabelled(NamedTuple):
    """What a network makes of a batch of the target's images, whose labels are not known."""

    outputs: Outputs  # of a training view; n may differ from that of the labelled images
    positions: Tensor  # [n] in the target's train split
    x: Tensor  # that view, as the backbone is given it
    second: Tensor | None = None  # another view of the same images


class Step(NamedTuple):
    """What a regulariser may look at in a training step."""

    network: Network
    y: Tensor  # [n] class indices, or [n, k] class probabilities
    outputs: Outputs
    trace: Trace
    start: Trace | None  # of the network as the stage began, on the same views and in eval mode
    second: Tensor | None = None  # another view of the same images, as the backbone's layer group `cut` is given it
    cut: int = 0  # layer groups of the backbone that the data have been through
    target: Unlabelled | None = None  # beside labelled source images where a stage adapts to a target without labels
    progress: float = 0.0  # share of the schedule's optimiser steps that lie behind, in [0, 1]
    domains: Tensor | None = None  # [n] which of several sources each image is from, by number; None where there is one
    num_processes: int = 1  # that take such a step at the same time, each with other images

    def required_target(self) -> Unlabelled:
        """What the network makes of the target's images, for terms of `adaptation`: stages without one have none."""
        assert self.target is not None
        return self.target


@dataclass(frozen=True)
class Origin:
    """Where the starting weights come from: the source stage."""

    head: LinearHead  # over the source's classes, on the backbone's features
    domain: Domain
    store: Store


@dataclass(frozen=True)
class Beginning:
    """What there is when a stage begins."""

    network: Network  # as it is then: a copy that is never trained, in eval mode
    domain: Domain
    origin: Origin | None
    how: Inference
    seed: int
    target: Domain | None = None  # where a stage adapts to a target without labels; its train images are in `pool`
    kept_target: FeatureDomain | None = None  # what a prefix that no phase changes makes of these

    def required_target(self) -> Domain:
        """The domain without labels, for terms of `adaptation`: stages without one have none."""
        assert self.target is not None
        return self.target

    def required_origin(self) -> Origin:
        """The source stage, for those that need its head: validation refuses them without."""
        assert self.origin is not None
        return self.origin


class Term(nn.Module):
    """A regulariser at work in one stage: `forward(step)` gives its weighted share of the loss, a scalar.

    Its parameters are trained beside the network's, and its state is in the checkpoints. What it gets when the stage
    begins and never changes is kept in `Fixed`, which is in none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.figures: dict[str, Tensor] = {}  # what it measured in its last step: scalars without gradient

    def after_step(self, network: Network, step: int, num_steps: int) -> None:
        """Act after the optimizer's step number `step`, from 1 on, of the `num_steps` of the stage."""


class _CompanionTerm(Term):
    """The companion of the backbone's adapter."""

    def __init__(self, companion: Companion) -> None:
        super().__init__()
        self.companion = companion

    def forward(self, step: Step) -> Tensor:
        return self.companion.penalty(step.network.backbone)

    def after_step(self, network: Network, step: int, num_steps: int) -> None:
        self.companion.after_step(network.backbone, step, num_steps)


class Fixed(nn.Module):
    """Copies of tensors that follow the module's device and type, and are in no checkpoint.

    They are no buffers, which a callback that averages weights would average, and so round, too.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Fixed":
        self.tensors = {name: fn(tensor) for name, tensor in self.tensors.items()}
        return super()._apply(fn, recurse)

    def items(self) -> Iterable[tuple[str, Tensor]]:
        """Names and tensors."""
        return self.tensors.items()

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


class Regulariser:
    """Settings of one method, from its YAML; `begin` puts it to work."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    replaces_weight_decay: ClassVar[bool] = False

    def check(self, network: Network, phases: Sequence[ResolvedPhase]) -> None:
        """Refuse a network or phases that it makes no sense for; an override calls this one too.

        Raises:
            UserError: with the reason.
        """
        trained = {group for phase in phases for group in phase.trained_groups}
        if "trained_features" in self.needs and trained <= {"head"}:
            raise UserError("it acts on the features, and this strategy trains only the head")
        if "layer_groups" in self.needs and not isinstance(network.backbone, SequentialBackbone):
            raise UserError(
                "it compares the outputs of layer groups, and those of this backbone are no functions one after "
                "another; use regulariser=feature_distillation"
            )

    def begin(self, beginning: Beginning) -> Term | None:
        """What it adds to the loss of a stage that begins so; None where it only acts on the network."""
        raise NotImplementedError

    def attach(self, network: Network) -> list[RemovableHandle]:
        """Hooks on the network for the time of its training; none for a method that only adds to the loss."""
        return []


def check_weights(**weights: float) -> None:
    """Refuse a weight below 0.

    Raises:
        UserError: with its name.
    """
    for name, value in weights.items():
        if not 0.0 <= value < float("inf"):
            raise UserError(f"{name}={value!r}; expected 0 or more")


def matching_groups(pattern: str, network: Network) -> list[str]:
    """The backbone's layer groups, as `backbone.<group>`, that match a regular expression in full.

    Raises:
        UserError: the pattern is no regular expression, or matches none.
    """
    names = [name for name in network.named_groups() if name.startswith("backbone.")]
    try:
        found = [name for name in names if re.fullmatch(pattern, name)]
    except re.error as error:
        raise UserError(f"groups={pattern!r}: not a regular expression ({error})") from None
    if not found:
        raise UserError(f"groups={pattern!r} matches no layer group; there are {', '.join(names)}")
    return found


def check_trained(held: Collection[str], pattern: str, phases: Sequence[ResolvedPhase]) -> None:
    """Refuse phases that train none of the layer groups `held`, those that the pattern matches.

    Raises:
        UserError: a term that holds them would be a constant.
    """
    if not any(group in held for phase in phases for group in phase.trained_groups):
        raise UserError(f"it holds layer groups that match {pattern!r}, and this strategy trains none of them")


def some_images(domain: Domain, num_images: int, how: Inference) -> LabelledBatch:
    """The evaluation view of training images, at most so many, drawn without repetition and the same at every call."""
    positions = np.random.default_rng(0).permutation(domain.sizes["train"])[:num_images]
    batch = domain.datasets["train"][positions]
    return batch._replace(x=view_of(domain, batch, how), y=batch.y.to(how.device))


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class Regularisation(nn.Module):
    """All regularisers of a stage, by name; `forward(step)` gives their terms, weighted.

    The companion of the network's adapter is one of the terms.
    """

    def __init__(self, regularisers: Mapping[str, Regulariser], beginning: Beginning) -> None:
        super().__init__()
        self.regularisers = dict(regularisers)
        needs = frozenset().union(*(regulariser.needs for regulariser in regularisers.values()))
        self.records_groups = "layer_groups" in needs
        self.wants_second_view = "second_view" in needs
        self.of_whole_batch = [name for name, method in regularisers.items() if "whole_batch" in method.needs]
        # In a list, so that it is no part of this module: not trained, in no checkpoint, always in eval mode.
        self.starting_network = [beginning.network] if "starting_network" in needs else []
        terms = {name: regulariser.begin(beginning) for name, regulariser in regularisers.items()}
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term is not None})
        if (companion := companion_of(beginning.network.backbone)) is not None:
            self.terms[companion.name] = _CompanionTerm(companion)

    @property
    def replaces_weight_decay(self) -> bool:
        """Whether one of them takes the place of the optimiser's weight decay."""
        return any(regulariser.replaces_weight_decay for regulariser in self.regularisers.values())

    def settle(self, device: torch.device, dtype: torch.dtype) -> None:
        """Bring the starting network to the device and the type of weights."""
        for network in self.starting_network:
            network.to(device, dtype)

    @contextmanager
    def attached(self, network: Network) -> Iterator[None]:
        """The regularisers' hooks on the network within the block."""
        handles = [handle for regulariser in self.regularisers.values() for handle in regulariser.attach(network)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def trace(self, network: Network, x: Tensor, cut: int) -> Trace:
        """What `network` makes of images, or of what the backbone's first `cut` layer groups made of them."""
        with recorded_groups(network if self.records_groups else None) as groups:
            backbone_features = network.backbone.forward_from(cut, x)
        return Trace(backbone_features, network.mapping(backbone_features), groups)

    @torch.no_grad()
    def starting_trace(self, x: Tensor, cut: int) -> Trace | None:
        """What the network made of them as the stage began; None where no regulariser asks for it."""
        return self.trace(self.starting_network[0], x, cut) if self.starting_network else None

    def after_step(self, network: Network, step: int, num_steps: int) -> None:
        """Let each term act after the optimizer's step number `step`, from 1 on, of the `num_steps` of the stage."""
        for term in self.terms.values():
            assert isinstance(term, Term)
            term.after_step(network, step, num_steps)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Each regulariser's share of the loss."""
        with torch.autocast(step.y.device.type, enabled=False):
            return {name: term(step) for name, term in self.terms.items()}

    @property
    def figures(self) -> dict[str, Tensor]:
        """What each term measured in the last step beside its loss, as `<term>/<figure>`."""
        found: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            assert isinstance(term, Term)
            found |= {f"{name}/{figure}": value for figure, value in term.figures.items()}
        return found


@contextmanager
def recorded_groups(network: Network | None) -> Iterator[dict[str, Tensor]]:
    """The outputs of the backbone's layer groups, as long as they are run within the block."""
    groups: dict[str, Tensor] = {}
    handles = []
    for name, group in network.named_groups().items() if network is not None else ():
        if name.startswith("backbone."):
            handles.append(group.register_forward_hook(_recorder(groups, name)))
    try:
        yield groups
    finally:
        for handle in handles:
            handle.remove()


def _recorder(groups: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def record(module: nn.Module, args: Any, output: Tensor) -> None:
        groups[name] = output

    return record


def frozen_copy(network: Network, state: Mapping[str, Tensor]) -> Network:
    """A copy in that state, in eval mode, whose parameters take no gradients."""
    copy = deepcopy(network)
    copy.load_state_dict(state)
    return copy.requires_grad_(False).eval()
