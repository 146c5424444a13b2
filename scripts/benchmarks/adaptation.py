"""Cost of a training step of every method of adaptation, next to one that learns from the source alone."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from harness import Figures, Goal, Repetition, Row, seconds
from parts import CONF, new_network, random_domain, read_strategy
from torch import Tensor

from graft.adaptation.bank import Bank
from graft.adaptation.base import Adaptation
from graft.adaptation.source_only import SourceOnly
from graft.adapting import AdaptationModule
from graft.batch import PairedBatch
from graft.data.domain import Domain
from graft.data.paired import PairedData
from graft.features import Inference
from graft.models.backbones.cnn import Cnn
from graft.models.network import Network
from graft.module import Span
from graft.objectives.supervised import CrossEntropy
from graft.regularisers.base import Beginning, Regularisation
from graft.strategies.engine import apply_phase, set_train_modes, train_modes
from graft.strategies.schedules import Constant

BATCH_SIZE = 64  # of the source, and of the target
NUM_STEPS = 20  # of which the fastest counts, after one that warms up
NUM_BANK = 60_000  # images of the target, all seen before
SOURCE_ONLY = "source alone"
MORE_PASSES = {  # beside the one of both batches through the network
    "adda": "the source's through the network as the stage began",
    "fixmatch": "a second view of the target's, trained too",
    "mean_teacher": "a second view of the target's through the teacher",
}
AT_MOST = 1.6


class Alone(AdaptationModule):
    """Halfway through a training that no trainer drives."""

    progress = 0.5  # type: ignore[assignment]
    num_processes = 1  # type: ignore[assignment]

    def _after_step(self, *_: object) -> None:
        assert self.regularisation is not None
        self.regularisation.after_step(self.network, 1, 2)


def methods() -> dict[str, dict[str, Adaptation]]:
    """What each file of conf/adaptation that trains stands for."""
    found = {}
    for path in sorted((CONF / "adaptation").glob("*.yaml")):
        nodes: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text()) or {}
        built = {name: made(**node) for name, node in nodes.items()}
        if path.stem != "source_only" and any(method.trains for method in built.values()):
            found[path.stem] = built
    return found


def made(_target_: str, **settings: Any) -> Adaptation:
    module, _, name = _target_.rpartition(".")
    return getattr(import_module(module), name)(**settings)


def with_full_banks(regularisation: Regularisation) -> Regularisation:
    """The same, as if every image of the target had been in a batch."""
    generator = torch.Generator().manual_seed(0)
    for bank in (module for module in regularisation.modules() if isinstance(module, Bank)):
        num_samples, num_classes = bank.p.shape
        features = torch.randn(num_samples, bank.features.shape[1], generator=generator)
        p = torch.randn(num_samples, num_classes, generator=generator).softmax(dim=1)
        bank.put(torch.arange(num_samples), features, p)
    return regularisation


def within_an_epoch(regularisation: Regularisation) -> Regularisation:
    """The same, as if what a method does once an epoch had been done: SHOT's labels of all images."""
    for name, num_passed in regularisation.named_buffers():
        if name.endswith("num_passed"):
            num_passed.zero_()
    return regularisation


def stepper(adaptation: dict[str, Adaptation], domain: Domain, num_bank: int) -> Callable[[PairedBatch], None]:
    """One step of training on a pair of batches."""
    network = new_network(Cnn)
    [phase] = read_strategy("fine_tune").resolve(network, 1)
    target: Any = SimpleNamespace(pool=range(num_bank))
    start: Network = new_network(Cnn).requires_grad_(False).eval()
    beginning = Beginning(start, domain, None, Inference(torch.device("cpu")), 0, target)
    apply_phase(network, phase)
    regularisation = within_an_epoch(with_full_banks(Regularisation(adaptation, beginning)))
    optimizer = partial(torch.optim.AdamW, lr=1e-3, fused=True)
    module = Alone(
        network, CrossEntropy(), phase, optimizer, Constant(), domain.view, Span(1), 0, regularisation=regularisation
    )
    module.target_view = domain.view
    set_train_modes(train_modes(network, phase))
    steps = module.configure_optimizers()

    def step(batch: PairedBatch) -> None:
        steps.zero_grad(set_to_none=True)
        total: Tensor = module.training_losses(batch, 0).total
        total.backward()
        steps.step()

    return step


def prepare(quick: bool, folder: Path) -> Repetition:
    """All methods take their steps on the same pairs of batches; source-free ones on the target's of these."""
    num_steps = 1 + NUM_STEPS
    domain = random_domain(folder, num_steps * BATCH_SIZE, 32, Cnn().preprocessing, BATCH_SIZE)
    paired = PairedData(domain, domain, source_free=False)
    paired.begin(seed=0, first_epoch=0)
    batches = list(islice(paired.train_dataloader(), num_steps))
    sides = {SOURCE_ONLY: (stepper({"source_only": SourceOnly()}, domain, 1), batches)}
    for name, adaptation in methods().items():
        source_free = any(method.source_free for method in adaptation.values())
        given = [batch._replace(source=None) for batch in batches] if source_free else batches
        sides[f"graft, {name}"] = stepper(adaptation, domain, NUM_BANK), given

    return lambda: {side: seconds_a_step(step, given) for side, (step, given) in sides.items()}


def seconds_a_step(step: Callable[[PairedBatch], None], batches: list[PairedBatch]) -> float:
    """The fastest step, from the second on: of so many methods some would be caught by noise in the median."""
    return min([seconds(partial(step, batch)) for batch in batches][1:])


def dearest(figures: Figures) -> float:
    """The highest share of a source-only step among methods that need no more passes through the network."""
    excused = {f"graft, {name}" for name in MORE_PASSES}
    return max(value for side, value in figures.items() if side not in excused) / figures[SOURCE_ONLY]


ROW = Row(
    "adaptation",
    f"training step of adaptation, cnn, batch {BATCH_SIZE} + {BATCH_SIZE}, {NUM_BANK} target images in banks",
    "s",
    prepare,
    (Goal(f"each without further passes: at most {AT_MOST}x {SOURCE_ONLY}", dearest, at_most=AT_MOST),),
    "further passes: "
    + "; ".join(f"{name}, {what}" for name, what in MORE_PASSES.items())
    + "; what shot does once an epoch is not in it",
    quick_repeats=5,
)
