"""Predict the classes of images or texts with the network of a finished run, as CSV or JSON lines.

Takes the folder of a run, then image files, folders of images, .npz files with one array of images, or - for paths
from standard input, one a line:

  graft predict outputs/latest photos/ --top-k 3
  find . -name '*.jpg' | graft predict outputs/latest - --format json --output found.jsonl

Where the run reads texts: text files, folders of .txt, tables (.csv, .tsv, .jsonl, .parquet) with a column of texts,
or - for texts from standard input, one a line:

  echo "I could not put it down" | graft predict outputs/latest -

Samples are brought to the network as in the run's own evaluation. Where the run found a temperature
(after=temperature), probabilities are calibrated by it. Samples that cannot be read are named on standard error, the
others are predicted, and the exit code is 1. In folders, files whose names are not those of such samples are passed
over.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING

from graft.cli.arguments import Parser, command_parser, parse
from graft.cli.compose import refuse
from graft.cli.finished import finished_run, open_run
from graft.errors import UserError, nearest_path
from graft.inference.choices import DEVICES, ROW_FORMATS
from graft.records.files import atomic_file

if TYPE_CHECKING:
    from graft.data.readers.base import Unreadable
    from graft.inference.kinds import Item, Kind

STANDARD_INPUT = "-"
NAMES_SHOWN = 5


def main(arguments: Sequence[str]) -> int:
    """Predict what the command line names; returns the exit code."""
    options = parse(parser(), arguments)
    for name in ("top_k", "batch_size"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected a positive number")
    folder, record = finished_run(options.run)
    refuse([f"{word}: no such file or folder{nearest_path(Path(word))}" for word in missing(options.inputs)])
    num_classes = len(record["classes"]["names"])
    if options.top_k > num_classes:
        raise UserError(f"--top-k {options.top_k}: the run has {num_classes} classes")
    from graft.evaluation import paying_batch_size
    from graft.inference.kinds import kind_of
    from graft.inference.predictions import MIN_BATCH, ROWS, predictions
    from graft.inference.trained import choose_device

    trained = open_run(folder, record).to(choose_device(options.device))
    if trained.temperature is not None:
        say(f"probabilities are calibrated by the run's temperature, {trained.temperature:.4g}")
    elif "temperature" in record.get("after", {}):
        say("probabilities are not calibrated: the run's val samples leave the temperature open")
    kind = kind_of(trained.preprocessing)
    batch_size = options.batch_size or paying_batch_size(trained.preprocessing, MIN_BATCH)
    trouble, count = Trouble(kind.nouns), 0
    with output(options.output) as file:
        rows = ROWS[options.format](file, trained.class_names, options.top_k, options.probabilities)
        for batch in predictions(trained, items(kind, options.inputs, trouble), batch_size, trouble.refuse):
            for prediction in batch:
                rows.write(prediction)
            count += len(batch)
            file.flush()
        if not count and not trouble.num_broken:
            raise UserError(f"no {kind.nouns} in {', '.join(options.inputs)}{trouble.in_words()}")
    if trouble.passed_over:
        say(f"predicted {count} {kind.nouns}{trouble.in_words()}")
    if trouble.num_broken:
        say(f"{trouble.num_broken} of {count + trouble.num_broken} could not be predicted")
    return 1 if trouble.num_broken else 0


def parser() -> Parser:
    """What the command takes."""
    result = command_parser("predict")
    option = result.add_argument
    option("run", type=Path, metavar="RUN", help="the folder of a finished run, such as outputs/latest")
    option("inputs", nargs="+", metavar="FILE|DIR|-", help="samples, folders of them, or - for standard input")
    option("--format", choices=ROW_FORMATS, default="csv", help="csv (the default), or json: an object a line")
    option("--top-k", type=int, default=1, metavar="K", help="the K most probable classes; by default 1")
    option("--probabilities", action="store_true", help="also the probability of every class")
    option("--batch-size", type=int, metavar="N", help="samples predicted at once; by default by their size")
    option("--device", choices=DEVICES, default="auto", help="auto (the default) takes a GPU where there is one")
    option("--output", type=Path, metavar="FILE", help="where to write; by default to standard output")
    return result


@dataclass
class Trouble:
    """What cannot be predicted, named as it is met; only counts are kept, and the first names of the passed over."""

    nouns: str  # what samples are called
    num_broken: int = 0
    passed_over: int = 0
    first: list[str] = field(default_factory=list)

    def refuse(self, broken: "Unreadable") -> None:
        """Name a sample that cannot be read."""
        self.num_broken += 1
        say(f"cannot be read: {broken}")

    def pass_over(self, path: Path) -> None:
        """Count a file that is no sample by its name."""
        self.passed_over += 1
        if len(self.first) < NAMES_SHOWN:
            self.first.append(path.name)

    def in_words(self) -> str:
        """What was passed over; empty for nothing."""
        if not self.passed_over:
            return ""
        rest = " ..." if self.passed_over > len(self.first) else ""
        first = ", ".join(self.first)
        return f"; passed over {self.passed_over} whose names are not those of {self.nouns}: {first}{rest}"


def missing(words: Sequence[str]) -> list[str]:
    """Those of the paths that lead nowhere."""
    return [word for word in words if word != STANDARD_INPUT and not Path(word).expanduser().exists()]


def items(kind: "Kind", words: Sequence[str], trouble: Trouble) -> "Iterator[Item]":
    """The samples that the words name, one after the other."""
    from graft.inference.kinds import items_from

    for word in words:
        lines, are_samples = ([word], False) if word != STANDARD_INPUT else (sys.stdin, kind.lines_are_samples)
        yield from items_from(kind, lines, are_samples, trouble.refuse, trouble.pass_over)


@contextmanager
def output(path: Path | None) -> Iterator[IO[str]]:
    """Standard output, or a file that appears when it is whole."""
    if path is None:
        yield sys.stdout
        return
    path = path.expanduser()
    if path.is_dir():
        raise UserError(f"--output {path}: a folder; expected the name of a file")
    with atomic_file(path) as file:
        text = TextIOWrapper(file, encoding="utf-8", newline="")
        yield text
        text.flush()
        text.detach()  # the file is closed by whoever opened it


def say(text: str) -> None:
    """A line on standard error."""
    print(f"graft: {text}", file=sys.stderr)
