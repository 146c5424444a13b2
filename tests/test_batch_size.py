"""The batch size that `auto` stands for: the largest that pays and fits, found once, and the same as given by hand."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import network, tiny_domain, training, write_arrays
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from graft import batch_size
from graft.batch_size import Case, candidates, case_key, find_batch_size, images_per_second, trial
from graft.build.assembly import build_experiment
from graft.build.validation import validate
from graft.cli.compose import compose, hydra_application
from graft.errors import UserError
from graft.estimate import estimate_run
from graft.pipeline import run
from graft.records.store import Store
from graft.threads import FLOP_PER_THREAD, paying_threads, threads_for


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(training(), tiny_domain(tmp_path, batch_size="auto"), ["cnn"], 1000, network)


def with_images(case: Case, num: int) -> Case:
    """The case as if its training split had so many images."""
    domain = case.domain.with_batch_size(0)
    domain.sizes = domain.sizes | {"train": num}
    return replace(case, domain=domain)


@given(num=st.integers(1, 10**6))
def test_candidates_are_powers_of_two_that_leave_steps(num: int) -> None:
    domain = type("Domain", (), {"sizes": {"train": num}})()
    sizes = candidates(Case(None, domain, [], 0, network))  # type: ignore[arg-type]
    assert all(size & (size - 1) == 0 for size in sizes)
    assert sizes[0] == (8 if num >= 8 else max(s for s in (1, 2, 4) if s <= num))
    assert [b // a for a, b in pairwise(sizes)] == [2] * (len(sizes) - 1)
    assert all(num // size >= 8 for size in sizes[1:])
    assert num // (2 * sizes[-1]) < 8  # one more would leave fewer


Speeds = dict[int, float | None]


@pytest.mark.parametrize(
    ("speeds", "chosen", "tried"),
    [
        ({8: 10, 16: 20, 32: 40, 64: 80}, 64, 4),
        ({8: 10, 16: 20, 32: 21.9, 64: 80}, 16, 3),  # less than a tenth more
        ({8: 10, 16: 20, 32: 22.1, 64: 22.2}, 32, 4),
        ({8: 10, 16: 20, 32: None, 64: None}, 16, 3),
        ({8: 10, 16: 5, 32: 100, 64: 100}, 8, 2),
    ],
)
def test_what_no_longer_pays_or_fits_ends_the_search(
    case: Case, speeds: Speeds, chosen: int, tried: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(batch_size, "images_per_second", lambda case, network, size: speeds[size])
    case, store = with_images(case, 8 * 64), Store(tmp_path / "store")
    found = find_batch_size(case, store)
    assert found["batch_size"] == chosen
    assert list(found["images_per_second"]) == [str(size) for size in list(speeds)[:tried]]
    monkeypatch.setattr(batch_size, "trial", lambda _: pytest.fail("tried again"))
    assert find_batch_size(case, store) == found


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_is_caught_and_nothing_else(
    case: Case, error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> float:
        raise error

    monkeypatch.setattr(batch_size, "step_seconds", fail)
    assert images_per_second(case, network(), 8) is None
    with pytest.raises(UserError, match="tiny: batch_size=auto: not even 8 samples fit into memory"):
        trial(case)
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="shapes"):
        images_per_second(case, network(), 8)


@pytest.mark.parametrize("optimizer", [None, torch.optim.LBFGS])
@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "auto"])
def test_a_trial_trains_as_a_run_would_and_leaves_no_trace(case: Case, optimizer: Any, precision: str) -> None:
    how = replace(case.training, precision=precision)
    if optimizer is not None:
        how = replace(how, optimizer=lambda parameters: optimizer(parameters, max_iter=2))
        object.__setattr__(how.optimizer, "keywords", {"lr": 1.0})
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    assert trial(replace(case, training=how))["images_per_second"][8] > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_the_key_changes_with_what_decides(case: Case) -> None:
    keys = {
        case_key(case),
        case_key(replace(case, config=["resnet20"])),
        case_key(with_images(case, 1000)),
        case_key(replace(case, training=replace(case.training, precision="bf16-mixed"))),
    }
    assert len(keys) == 4
    assert case_key(with_images(case, 1001)) == case_key(with_images(case, 1000))


def test_threads_are_those_that_pay() -> None:
    assert threads_for(1, 0) == 1
    assert threads_for(10**6, int(FLOP_PER_THREAD)) == torch.get_num_threads()


@pytest.fixture
def go(tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    write_arrays(tmp_path / "source.npz", seed=1, num_classes=4)
    write_arrays(tmp_path / "target.npz", seed=2)
    words = ["trainer=cpu", "logger=none", "target=arrays", f"target.path={tmp_path}/target.npz", "source=arrays"]
    words += [f"source.path={tmp_path}/source.npz", "trainer.max_epochs=2", "baselines=[]"]
    words += ["pretrain.max_epochs=5", "pretrain.optimizer.lr=0.003"]
    with hydra_application() as hydra:

        def make(name: str, *overrides: str) -> dict[str, Any]:
            config = compose(hydra.config_loader, [*words, f"paths.outputs={tmp_path / name}", *overrides])
            assert validate(config) == []
            folder = tmp_path / "runs" / name
            folder.mkdir(parents=True)
            experiment = build_experiment(config)
            with paying_threads(experiment):
                run(experiment, folder)
            record: dict[str, Any] = json.loads((folder / "record.json").read_text())
            return record | {"folder": folder}

        yield make


def test_a_run_is_bit_equal_to_one_with_the_sizes_by_hand(go: Callable[..., dict[str, Any]]) -> None:
    threads = torch.get_num_threads()
    open_words = ["target.batch_size=auto", "source.batch_size=auto", "optimizer.lr=auto", "precision=auto"]
    found = go("found", *open_words, "memory_format=contiguous")
    assert torch.get_num_threads() == threads
    sizes = {name: trial["batch_size"] for name, trial in found["batch_sizes"].items()}
    assert sizes.keys() == {"source", "target"}
    rate, precision = found["learning_rates"]["transfer"]["lr"], found["numerics"]["precision"]
    words = [*(f"{name}.batch_size={size}" for name, size in sizes.items()), f"optimizer.lr={rate}"]
    by_hand = go("given", *words, f"precision={precision}", "memory_format=contiguous")
    assert by_hand["batch_sizes"] == {}
    assert found["metrics"] == by_hand["metrics"]
    assert found["fingerprints"] == by_hand["fingerprints"]
    states = [load_file(record["folder"] / "weights" / "network.safetensors") for record in (found, by_hand)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    costs = [cost for cost in estimate_run(build_experiment(found["config"])) if "batch_size" in cost.name]
    assert [(cost.name, cost.in_store) for cost in costs] == [
        (f"{name}.batch_size={sizes[name]}", True) for name in ("source", "target")
    ]
