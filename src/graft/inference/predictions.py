"""What a trained network says of samples, as a stream of rows."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, Protocol

import numpy as np

from graft.data.readers.base import Unreadable
from graft.data.threaded import in_order, num_cores
from graft.inference.kinds import Item, in_batches, read_batch
from graft.inference.trained import Trained

MIN_BATCH = 32  # samples that are predicted at once; more of small ones


@dataclass(frozen=True)
class Prediction:
    """What the network says of one sample."""

    name: str
    probabilities: np.ndarray  # float64 [k], calibrated where the run found a temperature

    def top(self, count: int) -> list[int]:
        """The `count` most probable classes, the most probable first; of equal ones that of the lower number."""
        order: list[int] = np.argsort(-self.probabilities, kind="stable")[:count].tolist()
        return order


def predictions(
    trained: Trained, items: Iterable[Item], batch_size: int, refuse: Callable[[Unreadable], None]
) -> Iterator[list[Prediction]]:
    """Predictions in the order of the items, a batch at a time; a few batches are read ahead, and no more are held.

    `refuse` is told of samples that cannot be read; the others are predicted all the same.
    """
    read = partial(read_batch, trained.preprocessing)
    for batch in in_order(read, in_batches(items, batch_size), num_cores()):
        for broken in batch.broken:
            refuse(broken)
        if batch.names:
            probabilities = trained.calibrated(trained.logits(batch.samples)).softmax(dim=1).numpy()
            yield [Prediction(name, row) for name, row in zip(batch.names, probabilities, strict=True)]


class Rows(Protocol):
    """Writes predictions."""

    def write(self, prediction: Prediction) -> None:
        """Write one."""


class CsvRows:
    """`path,class,probability[,class_2,probability_2 ...][,probability_of_<class> ...]` under a heading."""

    def __init__(self, file: IO[str], class_names: Sequence[str], top_k: int, all_classes: bool) -> None:
        self.writer = csv.writer(file, lineterminator="\n")
        self.class_names, self.top_k, self.all_classes = class_names, top_k, all_classes
        heading = ["path", "class", "probability"]
        heading += [f"{column}_{rank}" for rank in range(2, top_k + 1) for column in ("class", "probability")]
        self.writer.writerow(heading + [f"probability_of_{name}" for name in class_names if all_classes])

    def write(self, prediction: Prediction) -> None:
        """Write one line."""
        cells: list[Any] = [prediction.name]
        for index in prediction.top(self.top_k):
            cells += [self.class_names[index], shown(prediction.probabilities[index])]
        self.writer.writerow(cells + [shown(value) for value in prediction.probabilities if self.all_classes])


class JsonRows:
    """An object a line: `path`, `class`, `probability`, and where asked for `top` and `probabilities` by class."""

    def __init__(self, file: IO[str], class_names: Sequence[str], top_k: int, all_classes: bool) -> None:
        self.file = file
        self.class_names, self.top_k, self.all_classes = class_names, top_k, all_classes

    def write(self, prediction: Prediction) -> None:
        """Write one line."""
        top = [
            {"class": self.class_names[index], "probability": shown(prediction.probabilities[index])}
            for index in prediction.top(self.top_k)
        ]
        row: dict[str, Any] = {"path": prediction.name, **top[0]}
        if self.top_k > 1:
            row["top"] = top
        if self.all_classes:
            values = map(shown, prediction.probabilities)
            row["probabilities"] = dict(zip(self.class_names, values, strict=True))
        print(json.dumps(row, ensure_ascii=False), file=self.file)


ROWS: dict[str, Callable[[IO[str], Sequence[str], int, bool], Rows]] = {"csv": CsvRows, "json": JsonRows}


def shown(probability: float) -> float:
    """Without digits that rounding in the network decides.

    >>> shown(0.123456789), shown(1.2e-9)
    (0.123457, 1.2e-09)
    """
    return float(f"{probability:.6g}")
