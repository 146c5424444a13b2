"""A pipeline for searches that trains nothing: the validation accuracy of a run is a function of its learning rate."""

import math
import os
import signal
from pathlib import Path
from typing import Any

from records_by_hand import done, history

from graft.callbacks.reporting import Report
from graft.errors import PrunedError
from graft.experiment import Experiment
from graft.records.record import load_record, run_identity, start_record, write_record

BEST_LR = 0.01
EPOCHS = 4
KILLED_AFTER = "KILLED_AFTER"  # environment: the process kills itself in the middle of so many runs' successor


def accuracy(lr: float) -> float:
    """1 at the best rate, lower with each decade that lies between."""
    return 1 - 0.2 * abs(math.log10(lr / BEST_LR))


class Pipeline:
    """Leaves records as the real one would, and reports each epoch; fails at the rates that it is told to."""

    def __init__(self) -> None:
        self.began: list[Path] = []
        self.failing: set[str] = set()  # strategies

    def __call__(self, experiment: Experiment, folder: Path, report: Report | None = None) -> dict[str, Any]:
        self.began.append(folder)
        if not (folder / "record.json").exists():
            write_record(folder, start_record(experiment.name, experiment.seed, experiment.config))
        assert load_record(folder)["status"] == "running"
        if experiment.transfer.strategy.name in self.failing:
            raise RuntimeError("out of memory")
        curve = [accuracy(float(experiment.transfer.lr)) * epoch / EPOCHS for epoch in range(1, EPOCHS + 1)]
        for epoch, value in enumerate(curve, 1):
            if report is not None and report(epoch, value):
                raise PrunedError(epoch, report.metric, value)
            if os.environ.get(KILLED_AFTER) == str(len(self.began) - 1) and epoch == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        record = done(0.5, seed=experiment.seed)
        record |= {"config": experiment.config, "id": run_identity(experiment.config), "history": history(*curve)}
        record["metrics"]["target/val/accuracy"] = curve[-1]
        record["selection"]["last"] = {"epoch": EPOCHS, "score": None, "target/test/accuracy": 0.5}
        write_record(folder, record)
        return record


if __name__ == "__main__":
    import sys

    import graft.pipeline
    from graft.cli.main import main

    graft.pipeline.run = Pipeline()
    sys.exit(main())
