"""From records to rows: grouped by what varied, with mean, spread and n."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from graft.errors import UserError, did_you_mean
from graft.records.record import load_record
from graft.reports.settings import Record, seeds, setting, settings_by_id, short_names, value_of, varied_keys
from graft.reports.statistics import spread

ACCURACY = "target/test/accuracy"
LOSS = "target/test/loss"

# Averages are taken over records that agree in these, of the data whatever the seed of their splits, where the record
# says that. `weights` joins them where the weights were given, not trained: those of a source stage differ from seed to
# seed, as they should.
FINGERPRINTS = ("target_data", "source_data", "preprocessing", "code", "packages", "device")


Group = tuple[dict[str, str], list[Record], dict[str, Any]]


class Study(tuple[Record, ...]):
    """Records with what every table of them begins from, which takes long for thousands of them and is found once."""

    @cached_property
    def settings(self) -> dict[int, dict[str, str]]:
        """The `setting` of each record, by the record's id."""
        return settings_by_id(self)

    @cached_property
    def names(self) -> list[str]:
        """What varied (`varied_keys`)."""
        return varied_keys(self, [self.settings[id(record)] for record in self])

    @cached_property
    def counted(self) -> list[Record]:
        """The finished records that are no repetitions (`newest_of_repeated`)."""
        return newest_of_repeated(finished(self), self.settings)

    @cached_property
    def groups(self) -> list[Group]:
        """`setting`, records and `differs` of each row of `group_rows`."""
        members: dict[Any, list[Record]] = defaultdict(list)
        for record in self.counted:
            members[tuple(self.settings[id(record)].items())].append(record)
        return [group for records in members.values() for group in self._parts(records)]

    def _parts(self, records: list[Record]) -> list[Group]:
        """The records of one setting, apart where their fingerprints differ."""
        apart = differing_fingerprints(records)
        return [
            (
                {name: value_of(part[0], name) for name in self.names},
                part,
                {name: fingerprints(part[0]).get(name) for name in apart},
            )
            for part in split_by_fingerprint(records)
        ]


def varied_name(study: Study, key: str, asked: str) -> str:
    """The name of what varied that `key` is in full or in short; `asked` begins the error.

    Raises:
        UserError: it does not vary between the runs.
    """
    full = {short: name for name, short in short_names(study.names).items()} | {name: name for name in study.names}
    if key not in full:
        expected = did_you_mean(key, study.names) if study.names else "all runs have the same setting"
        raise UserError(f"{asked} does not vary between these runs; {expected}")
    return full[key]


class Runs(list[tuple[Path, Record]]):
    """(run folder, record) of some runs, and what their tables begin from."""

    @cached_property
    def study(self) -> Study:
        """The records, without their folders."""
        return Study(record for _, record in self)


def whole(folder: Path, record: Record) -> Record:
    """The record with all that it says, read again where only what tables show of it was kept."""
    return record if record["status"] != "done" or "history" in record else load_record(folder)


def study_of(records: Sequence[Record]) -> Study:
    """The records as a study, which they may be already."""
    return records if isinstance(records, Study) else Study(records)


def runs_of(runs: Sequence[tuple[Path, Record]]) -> Runs:
    """Folders and records as `Runs`, which they may be already."""
    return runs if isinstance(runs, Runs) else Runs(runs)


def group_rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row for each setting among the finished records, in order of appearance.

    Runs of one setting whose fingerprints differ come in rows of their own. Of runs that repeat setting, seeds and
    fingerprints only the newest counts: a repetition is not another sample.

    Returns:
        Rows with `setting` (what varied: name -> value), `n`, `seeds`, the figures (see `spread`) `accuracy`,
        `baseline`, `gain` (fractions) and `seconds` (of fitting on the target), `trainable_parameters`, and
        `differs`: fingerprint -> value, where it keeps the row apart from another one of the same setting.
    """
    return [row(values, part, differs) for values, part, differs in grouped(records)]


def grouped(records: Sequence[Record]) -> list[Group]:
    """`setting`, records and `differs` of each row of `group_rows`."""
    return study_of(records).groups


def row(values: dict[str, str], records: Sequence[Record], differs: dict[str, Any]) -> dict[str, Any]:
    """Mean, spread and n over records of one setting."""
    compared = [record for record in records if record["transfer"]]
    return {
        "setting": values,
        "n": len(records),
        "seeds": sorted(record["seed"] for record in records),
        "accuracy": spread([record["metrics"][ACCURACY] for record in records]),
        "baseline": spread([baseline_of(record)["metrics"][ACCURACY] for record in compared]),
        "gain": spread([record["transfer"]["gain"] for record in compared]),
        "seconds": spread([record["cost"]["fit_seconds"] for record in records]),
        "trainable_parameters": max(record["cost"]["trainable_parameters"] for record in records),
        "differs": differs,
    }


def finished(records: Iterable[Record]) -> list[Record]:
    """The records of runs that came to their end."""
    return [record for record in records if record["status"] == "done"]


def baseline_of(record: Record) -> Mapping[str, Any]:
    """The baseline that the record's gain is over."""
    baseline: Mapping[str, Any] = record["baselines"][record["transfer"]["baseline"]]
    return baseline


def fingerprints(record: Record) -> dict[str, Any]:
    """What must agree between records that are averaged."""
    given = record["fingerprints"]
    compared = {name: given.get(f"{name}_of_any_split", given.get(name)) for name in FINGERPRINTS}
    return compared if record["weights"] == "source" else compared | {"weights": given.get("weights")}


def split_by_fingerprint(records: Iterable[Record]) -> list[list[Record]]:
    """Records that may be averaged with each other."""
    parts: dict[Any, list[Record]] = defaultdict(list)
    for record in records:
        parts[repr(fingerprints(record))].append(record)
    return list(parts.values())


def differing_fingerprints(records: Sequence[Record]) -> list[str]:
    """Which fingerprints keep the records apart."""
    compared = [fingerprints(record) for record in records]
    names = dict.fromkeys(name for each in compared for name in each)
    return [name for name in names if len({repr(each.get(name)) for each in compared}) > 1]


def short_fingerprint(value: Any) -> str:
    """A hash by its first eight digits, anything else as it is.

    >>> short_fingerprint("0123456789abcdef" * 4)
    '01234567'
    """
    text = str(value)
    is_hash = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:8] if is_hash else text


def newest_of_repeated(
    records: Iterable[Record], settings: Mapping[int, Mapping[str, str]] | None = None
) -> list[Record]:
    """One record, the one that finished last, for each setting, seeds and fingerprints.

    `settings` are those of the records by their ids where they are known.
    """
    newest: dict[Any, Record] = {}
    for record in records:
        known = setting(record) if settings is None else settings[id(record)]
        key = (tuple(known.items()), repr((seeds(record), fingerprints(record))))
        if key not in newest or str(record["finished"]) >= str(newest[key]["finished"]):
            newest[key] = record
    return list(newest.values())
