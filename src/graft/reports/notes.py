"""What a reader of a summary must be told beside the figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.reports.settings import Record, short_names, value_of
from graft.reports.tables import LOSS, differing_fingerprints, finished, runs_of, short_fingerprint, study_of

CAPTION = (
    "mean ± sample standard deviation over seeds; accuracies in %, gain in points, seconds of fitting on the target"
)


def warnings(records: Sequence[Record], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(heading, text) for all that limits what the rows of `group_rows` say."""
    done = finished(records)
    notes = [("Not averaged", text) for text in kept_apart(rows)]
    drifted = [name for name in ("code", "packages") if name in differing_fingerprints(done)]
    if drifted:
        notes.append(("Compare with care", f"rows come from runs that differ in {' and '.join(drifted)}"))
    repeated = len(done) - len(study_of(records).counted)
    if repeated:
        runs = counted(repeated, "run repeats", "runs repeat")
        notes.append(("Left out", f"{runs} a newer one of the same setting and seed"))
    pruned = [record for record in records if record["status"] == "pruned"]
    if pruned:
        notes.append(
            ("Pruned", f"{counted(len(pruned), 'run was', 'runs were')} ended early by a search; in no average")
        )
    losers = [row for row in rows if row["gain"] and row["gain"]["mean"] < 0]
    if losers:
        worst = min(losers, key=lambda row: row["gain"]["mean"])
        text = f"below the baseline in {len(losers)} of {len(rows)} rows, at worst {label(worst['setting'])}"
        notes.append(("Negative transfer", f"{text} ({100 * worst['gain']['mean']:+.1f} points)"))
    diverged = [record for record in done if record["metrics"].get(LOSS, 0.0) is None]
    if diverged:
        notes.append(("Diverged", f"the test loss of {len(diverged)} of {len(done)} runs is not a finite number"))
    return notes


def counted(number: int, one: str, several: str) -> str:
    """A number with its words.

    >>> counted(1, "run was", "runs were"), counted(3, "run was", "runs were")
    ('1 run was', '3 runs were')
    """
    return f"{number} {one if number == 1 else several}"


def kept_apart(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One text for each setting whose runs differ in fingerprints, naming these and their values."""
    settings: dict[str, dict[str, dict[str, None]]] = {}
    for row in rows:
        for name, value in row["differs"].items():
            values = settings.setdefault(label(row["setting"]), {}).setdefault(name, {})
            values[short_fingerprint(value)] = None
    return [
        f"runs of {name} differ in " + ", ".join(f"{key} ({' / '.join(values)})" for key, values in apart.items())
        for name, apart in settings.items()
    ]


def label(setting: Mapping[str, str]) -> str:
    """A row's setting in one line.

    >>> label({"strategy": "lp_ft", "target.labels_per_class": "5"})
    'strategy=lp_ft labels_per_class=5'
    """
    names = short_names(list(setting))
    return " ".join(f"{names[name]}={value}" for name, value in setting.items()) or "one setting"


def unfinished(records: Sequence[tuple[Path, Record]]) -> list[tuple[str, str]]:
    """(status, which run and why) of every run that should have come to its end and did not."""
    names = runs_of(records).study.names
    return [
        (record["status"], f"{named(record, names)}: {reason(record)} ({shown(folder)})")
        for folder, record in records
        if record["status"] not in ("done", "pruned")
    ]


def named(record: Record, names: Sequence[str]) -> str:
    """A run by what varied and its seed."""
    return label({name: value_of(record, name) for name in names} | {"seed": record["seed"]})


def shown(folder: Path) -> Path:
    """A folder as one would type it from here."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def reason(record: Record) -> str:
    """Why a run has no end: the message of its error, without the traceback."""
    if record["status"] == "running":
        return "still running, or interrupted"
    if record["status"] == "pruned":
        return f"ended by its search after epoch {record['pruned']['epoch']}"
    return error_message(str(record.get("error") or "no reason given"))


def error_message(text: str) -> str:
    """The message of an error in one line; `text` may be a whole traceback.

    >>> error_message('Traceback (most recent call last):\\n  File "a.py", line 1\\ngraft.errors.UserError: no x\\n')
    'UserError: no x'
    """
    lines = text.strip().splitlines()
    if any(line.startswith("Traceback ") for line in lines):
        last_frame = max(i for i, line in enumerate(lines) if line.startswith(("Traceback ", "  ")))
        lines = lines[last_frame + 1 :] or lines[-1:]
        name, colon, rest = lines[0].partition(":")
        lines[0] = name.rpartition(".")[2] + colon + rest
    return " ".join(line.strip() for line in lines)
