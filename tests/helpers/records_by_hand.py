"""Records written by hand, as a run would leave them."""

from pathlib import Path
from typing import Any

from graft.records.record import end_record, start_record


def config(strategy: str = "fine_tune", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A small plain configuration; `target_labels_per_class=5` and so on change a key of a group."""
    plain: dict[str, Any] = {
        "source": {"_target_": "graft.data.domain.Domain", "name": "glyphs"},
        "target": {"_target_": "graft.data.domain.Domain", "name": "digits", "labels_per_class": 10},
        "strategy": {"_target_": "graft.strategies.phases.Strategy", "name": strategy, "phases": [{"name": strategy}]},
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.001},
        "pretrain": {"seed": seed, "max_epochs": 8},
        "paths": {"outputs": "outputs"},
        "seed": seed,
    }
    for name, value in changes.items():
        group, _, key = name.partition("_")
        plain[group] = plain[group] | {key: value}
    return plain


def history(*accuracies: float, step: int = 4) -> list[dict[str, Any]]:
    return [
        {"epoch": i, "step": step * i, "seconds": 0.5 * i, "train/loss": 1.0, "val/accuracy": value}
        for i, value in enumerate(accuracies, 1)
    ]


def done(accuracy: float, scratch: float | None = 0.8, **settings: Any) -> dict[str, Any]:
    """The record of a finished run with this test accuracy and that of its scratch baseline."""
    plain = config(**settings)
    record = start_record("glyphs_to_digits", plain["seed"], plain)
    curve, baseline_curve = history(0.5, 0.85, 0.9), history(0.3, 0.6, 0.82)
    record |= {
        "source": "glyphs",
        "target": "digits",
        "backbone": "cnn",
        "strategy": plain["strategy"]["name"],
        "objective": "CrossEntropy",
        "weights": "source",
        "metrics": {"target/test/accuracy": accuracy, "target/test/loss": 0.4, "source/test/accuracy": 0.9},
        "selection": {"rule": "last", "best_epoch": 3},
        "baselines": {},
        "transfer": {},
        "cost": {
            "total_seconds": 9.0,
            "pretrain_seconds": 6.02,
            "fit_seconds": 1.5 + plain["seed"],
            "baseline_seconds": 1.25,
            "steps": 12,
            "epochs": 3,
            "trainable_parameters": 61326,
            "num_parameters": 61326,
        },
        "fingerprints": {
            "target_data": "1" * 64,
            "source_data": "2" * 64,
            "preprocessing": "3" * 64,
            "weights": f"{plain['seed']:064x}",
            "code": "4" * 64,
            "device": "cpu, 2 threads",
        },
        "history": curve,
    }
    if scratch is not None:
        metrics = {"target/test/accuracy": scratch, "target/test/loss": 0.7}
        record["baselines"] = {"scratch": {"metrics": metrics, "seconds": 1.25, "history": baseline_curve}}
        record["transfer"] = {
            "baseline": "scratch",
            "gain": accuracy - scratch,
            "negative": accuracy < scratch,
            "epochs_to_pass_baseline": 2,
            "steps_to_pass_baseline": 8,
            "seconds_to_pass_baseline": 1.0,
            "baseline_steps": 12,
            "baseline_seconds": 1.5,
        }
    return end_record(record, "done")


def with_transferred(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The record with all that is said of what was transferred; `changes` are of that part of it."""
    groups = {
        name: {
            "moved": moved,
            "moved_relative": moved / 4,
            "buffers_moved": None,
            "buffers_moved_relative": None,
            "cka": cka,
        }
        for name, moved, cka in (("stem", 0.0, 1.0), ("stage1", 0.5, 0.9876), ("stage2", 1e-3, None))
    }
    transferred = {"forgotten": 0.047, "moved": 0.5, "moved_relative": 0.1, "images": 128, "groups": groups}
    calibration = {"target/test/calibration_error": 0.031, "target/test/brier_score": 0.12}
    baselines = {
        name: baseline | {"metrics": baseline["metrics"] | {key: 2 * value for key, value in calibration.items()}}
        for name, baseline in record["baselines"].items()
    }
    speed = {
        "epochs_to_baseline_best": 3,
        "steps_to_baseline_best": 12,
        "seconds_to_baseline_best": 1.5,
        "speedup_in_steps": 1.5,
        "speedup_in_seconds": 1.5,
        "mean_lead": 0.1675,
    }
    return record | {
        "metrics": record["metrics"] | calibration,
        "baselines": baselines,
        "transfer": record["transfer"] | speed if record["transfer"] else {},
        "training_labels": 100,
        "transferred": transferred | changes,
    }


def failed(error: str, **settings: Any) -> dict[str, Any]:
    """The record of a run that ended in an error."""
    plain = config(**settings)
    return end_record(start_record("glyphs_to_digits", plain["seed"], plain), "failed", error)


def in_folders(*records: dict[str, Any], root: Path = Path("/sweep")) -> list[tuple[Path, dict[str, Any]]]:
    """The records as jobs 0, 1, 2, ... of a sweep."""
    return [(root / str(number), record) for number, record in enumerate(records)]
