"""Steps that do not fit into memory are taken in parts, and come to the same; what cannot be taken in parts says so."""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import Interrupt, network, stage, tiny_domain, training
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor

from graft.adaptation.mcc import MCC
from graft.callbacks.checkpoints import LAST, read_checkpoint
from graft.data.augment import Augmentation
from graft.errors import UserError
from graft.evaluation import evaluate
from graft.features import Inference, Prefix, extract
from graft.memory import Fitting, is_out_of_memory
from graft.models.backbones.cnn import Cnn
from graft.models.network import Network
from graft.outcome import Outcome, Start
from graft.regularisers.bss import BSS
from graft.regularisers.l2_sp import L2SP
from graft.regularisers.sam import SAM
from graft.stage import Fitted, Stage, fit_stage
from graft.summary import micro_batches

SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3)
CPU = torch.device("cpu")
ON_THE_CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")


class Small(torch.nn.Module):
    """Memory for so many samples at once, in the forward or in the backward pass."""

    def __init__(self, most: int, within: str = "forward", error: Exception = ON_THE_CPU) -> None:
        super().__init__()
        self.most, self.within, self.error, self.num_failed = most, within, error, 0

    def put_in(self, owner: Network) -> Network:
        """Let the network have no more."""
        hook = self.look_forward if self.within == "forward" else self.look_back
        owner.head.register_forward_hook(hook)
        return owner

    def look_forward(self, module: torch.nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        self.fail(len(output))

    def look_back(self, module: torch.nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: self.fail(len(gradient)))

    def fail(self, num: int) -> None:
        if num > self.most:
            self.num_failed += 1
            raise self.error


def settings(folder: Path, *callbacks: Callback, terms: dict[str, Any] | None = None, **trainer: Any) -> Stage:
    folder.mkdir(exist_ok=True)
    how = replace(training("fine_tune", 2, SGD, callbacks=callbacks, **trainer), save_every=0.0, **(terms or {}))
    return stage(folder / "stage", tiny_domain(folder, augmentation=Augmentation(flip=True, mixup=0.5)), how)


def together(a: Fitted, b: Fitted, tolerance: float = 1e-5) -> None:
    for name, weights in a.last.items():
        torch.testing.assert_close(b.last[name], weights, rtol=tolerance, atol=tolerance)
    for one, other in zip(a.history, b.history, strict=True):
        assert other["train/accuracy"] == one["train/accuracy"]
        assert other["train/loss"] == pytest.approx(one["train/loss"], rel=1e-4)


@pytest.mark.parametrize("trainer", [{}, {"gradient_clip_val": 0.5}], ids=["plain", "clipped"])
@pytest.mark.parametrize("within", ["forward", "backward"])
def test_the_result_is_that_of_whole_batches(
    tmp_path: Path, within: str, trainer: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    terms = {"regularisers": {"l2_sp": L2SP(alpha=0.1)}}
    whole = fit_stage(settings(tmp_path / "whole", terms=terms, **trainer), network())
    small = Small(5, within)
    with caplog.at_level(logging.WARNING):
        parts = fit_stage(settings(tmp_path / "parts", terms=terms, **trainer), small.put_in(network()))
    together(whole, parts)
    assert whole.micro_batch is None
    assert parts.micro_batch == 4
    assert caplog.text.count("out of memory with 16 samples at once") >= 1
    assert "gradients of at most 4 are added up" in caplog.text
    assert small.num_failed == 2 + (2 if within == "forward" else 0)  # 16, 8; then validation, which keeps it as well


class HalfPrecision(Callback):
    """Trains in float16 with scaled losses, which `precision=16-mixed` does on GPUs."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu")


def test_the_result_is_that_of_whole_batches_where_losses_are_scaled(tmp_path: Path) -> None:
    whole = fit_stage(settings(tmp_path / "whole", HalfPrecision()), network())
    parts = fit_stage(settings(tmp_path / "parts", HalfPrecision()), Small(5).put_in(network()))
    start = network().state_dict()
    assert parts.micro_batch == 4
    for name, weights in whole.last.items():
        moved = (weights - start[name]).abs().max() if weights.is_floating_point() else 0.0
        torch.testing.assert_close(parts.last[name], weights, rtol=0.0, atol=float(0.1 * moved), msg=name)


def test_torchs_and_pythons_own_errors_are_known() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(ON_THE_CPU)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.parametrize("error", [RuntimeError("something else"), ValueError("out of memory")])
def test_other_errors_are_left_alone(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        fit_stage(settings(tmp_path), Small(5, error=error).put_in(network()))


def test_norm_statistics_are_those_of_the_parts_and_a_failed_pass_leaves_none(tmp_path: Path) -> None:
    def fit(name: str, chosen: int | None, small: Small) -> Fitted:
        whole = settings(tmp_path / name)
        if chosen is not None:
            how = whole.training
            whole = replace(whole, training=replace(how, callbacks=lambda: [Chosen(chosen)]))
        return fit_stage(whole, small.put_in(network("resnet20")))

    class Chosen(Callback):
        def __init__(self, size: int) -> None:
            self.size = size

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.micro_batch = self.size

    found = fit("found", None, Small(4, "backward", torch.OutOfMemoryError("out of memory")))
    chosen = fit("chosen", 4, Small(4))
    assert all(torch.equal(weights, chosen.last[name]) for name, weights in found.last.items())
    assert [row["train/loss"] for row in found.history] == [row["train/loss"] for row in chosen.history]


def test_a_stage_that_goes_on_keeps_what_was_found(tmp_path: Path) -> None:
    undisturbed = fit_stage(settings(tmp_path / "undisturbed"), Small(5, "backward").put_in(network()))
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit_stage(settings(tmp_path / "cut", Interrupt(1)), Small(5, "backward").put_in(network()))
    assert read_checkpoint(tmp_path / "cut" / "stage" / LAST)["stage"]["micro_batch"] == 4
    small = Small(5, "backward")
    resumed = fit_stage(settings(tmp_path / "cut"), small.put_in(network()))
    assert small.num_failed == 0
    assert resumed.micro_batch == 4
    assert all(torch.equal(weights, resumed.last[name]) for name, weights in undisturbed.last.items())


@pytest.mark.parametrize(
    ("terms", "trainer", "reason"),
    [
        ({"regularisers": {"bss": BSS()}}, {}, "bss looks at the batch as a whole"),
        ({"regularisers": {"sam": SAM()}}, {}, "sam looks at the batch as a whole"),
        ({}, {"accumulate_grad_batches": 2}, "trainer.accumulate_grad_batches adds up"),
    ],
    ids=["bss", "sam", "accumulated"],
)
def test_what_is_no_mean_over_samples_is_refused(
    tmp_path: Path, terms: dict[str, Any], trainer: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=f"16 samples in a batch.*{reason}.*lower batch_size"):
        fit_stage(settings(tmp_path, terms=terms, **trainer), Small(5).put_in(network()))


def test_adaptation_is_refused(tmp_path: Path) -> None:
    whole = replace(settings(tmp_path, terms={"adaptation": {"mcc": MCC()}}), unlabelled=tiny_domain(tmp_path))
    with pytest.raises(UserError, match="source and target together; lower batch_size"):
        fit_stage(whole, Small(5).put_in(network()))


def test_one_sample_that_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not even one sample fits"):
        fit_stage(settings(tmp_path), Small(0).put_in(network()))


def test_evaluation_and_features_are_computed_in_parts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    domain = tiny_domain(tmp_path)
    whole = evaluate(network(), domain, "test", CPU)
    small = Small(7)
    found = evaluate(small.put_in(network()), domain, "test", CPU)
    assert found["confusion"] == whole["confusion"]
    assert found["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert "without gradients" in caplog.text

    backbone = Cnn()
    prefix, how = Prefix.whole(backbone), Inference(CPU, torch.float32)
    expected = extract(prefix, domain, "test", how)
    last = list(backbone.layer_groups.values())[-1]
    last.register_forward_hook(small.look_forward)
    torch.testing.assert_close(extract(prefix, domain, "test", how), expected)


@pytest.mark.parametrize(("num", "calls"), [(6, [6, 3, 3]), (5, [5, 3, 2]), (3, [3])])
def test_later_calls_keep_what_was_found(num: int, calls: list[int]) -> None:
    seen: list[int] = []

    def double(x: Tensor) -> Tensor:
        seen.append(len(x))
        if len(x) > 3:
            raise MemoryError
        return 2 * x

    fitting = Fitting(double)
    x = torch.arange(num)
    for _ in range(2):
        assert fitting(x).tolist() == [2 * i for i in range(num)]
    again = calls if num == 3 else calls[1:]
    assert seen == calls + again


def test_the_record_says_which_stages_took_parts() -> None:
    def outcome(size: int | None) -> Outcome:
        return Outcome({}, 1, [], 1, 0.0, 1, 1, micro_batch=size)

    assert micro_batches(Start("scratch"), outcome(None), {"scratch": outcome(None)}) == {}
    found = micro_batches(Start("source", micro_batch=8), outcome(4), {"scratch": outcome(None)})
    assert found == {"pretrain": 8, "transfer": 4}
