"""The table of a ranking: candidates by their scores, what those cost, and how well they agree with fine-tuning."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text
from scipy.stats import weightedtau

from graft.reports.export import csv_text
from graft.reports.settings import ABSENT, Record, setting, short_names
from graft.reports.statistics import spread
from graft.reports.tables import ACCURACY, finished, newest_of_repeated, split_by_fingerprint
from graft.reports.terminal import with_spread

Row = Mapping[str, Any]  # what a ranking says of one candidate

NOT_COMPARED = ("name", "baselines", "after")  # parts of a run's configuration that its accuracy does not depend on
COSTS = {"pretrain": "pretrain_seconds", "features": "features_seconds"}  # heading -> key of the seconds
LEAST_NAME = 11  # columns for a candidate's name, however narrow the console
CAPTION = "higher scores promise better transfer; pretraining in the seconds that it once took"


def in_order(rows: Sequence[Row], by: str) -> list[Row]:
    """The candidates from the highest value of a score to the lowest; those without a value come last."""
    return sorted(rows, key=lambda row: (row["scores"][by] is None, -(row["scores"][by] or 0.0)))


def fine_tuned(row: Row, records: Sequence[Record]) -> dict[str, Any] | None:
    """Mean test accuracy, its spread and the seeds of the candidate's own runs; None where there are none.

    A candidate's runs are those of its configuration, whatever their seeds and baselines, on the same data. Of runs
    that differ in code, packages or device, which are not averaged, the group that holds the latest one counts.
    """
    wanted = what_is_run(row["config"])
    own = [
        record
        for record in newest_of_repeated(finished(records))
        if what_is_run(record["config"]) == wanted and record["fingerprints"]["target_data"] == row["target_data"]
    ]
    if not own:
        return None
    latest = max(split_by_fingerprint(own), key=lambda part: max(str(record["finished"]) for record in part))
    figure = spread([record["metrics"][ACCURACY] for record in latest])
    assert figure is not None
    return figure | {"n": len(latest), "seeds": sorted(record["seed"] for record in latest)}


def what_is_run(config: Mapping[str, Any]) -> dict[str, str]:
    """All of a configuration that decides the accuracy of its runs, seeds aside."""
    return {key: value for key, value in setting({"config": config}).items() if key.split(".")[0] not in NOT_COMPARED}


def weighted_taus(rows: Sequence[Row], names: Sequence[str]) -> dict[str, float | None]:
    """Kendall's tau, weighted towards the top of both orders (Vigna 2015), of each score and fine-tuned accuracy.

    Taken over the candidates that have both; None where these are fewer than two, or all alike.
    """
    taus: dict[str, float | None] = {}
    for name in names:
        pairs = [
            (row["scores"][name], row["fine_tuned"]["mean"])
            for row in rows
            if row["fine_tuned"] is not None and row["scores"][name] is not None
        ]
        values = [set(column) for column in zip(*pairs, strict=True)]
        comparable = len(pairs) > 1 and all(len(column) > 1 for column in values)
        taus[name] = float(weightedtau(*zip(*pairs, strict=True)).statistic) if comparable else None
    return taus


def print_ranking(ranking: Mapping[str, Any], console: Console) -> None:
    """The table of a ranking, as it is in its JSON file."""
    rows = in_order(ranking["candidates"], ranking["by"])
    first = rows[0]
    console.print()
    samples = f"{first['num_samples']} training samples of {first['num_classes']} classes"
    console.print(Text(f"{ranking['target']}, {samples}, sorted by {ranking['by']}", style="bold"))
    console.print(fitting_table(rows, ranking, console))
    console.print(Text(CAPTION, style="dim"))
    if any(value is None for row in rows for value in row["scores"].values()):
        console.print(Text(f"{ABSENT}: needs the source's classifier, which is not known", style="dim"))


def fitting_table(rows: Sequence[Row], ranking: Mapping[str, Any], console: Console) -> Table:
    """The table, without the seconds of pretraining and features where the console has no room for them."""
    names = labels([row["overrides"] for row in rows])
    unlimited = console.options.update(max_width=10_000)
    least = Measurement.get(console, unlimited, ranking_table(rows, [""] * len(rows), ranking, COSTS)).maximum
    return ranking_table(rows, names, ranking, COSTS if least <= console.width else {})


def ranking_table(
    rows: Sequence[Row], names: Sequence[str], ranking: Mapping[str, Any], costs: Mapping[str, str]
) -> Table:
    """One line a candidate; below them the seconds of each column, and where there are runs to compare, the taus.

    Args:
        rows: in order.
        names: of the candidates.
        ranking: as in its JSON file.
        costs: heading -> key of the seconds, beside those of the scores, that are shown.
    """
    scores, compared = ranking["scores"], any(row["fine_tuned"] for row in rows)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("candidate", overflow="fold", min_width=LEAST_NAME)
    for heading in (*costs, *scores, *(["fine-tuned"] if compared else [])):
        table.add_column(heading.replace("_", "\n").replace("-", "-\n"), justify="right", no_wrap=True)
    best = {name: max((v for row in rows if (v := row["scores"][name]) is not None), default=None) for name in scores}
    for row, name in zip(rows, names, strict=True):
        figures = [seconds(row[key]) for key in costs.values()]
        values = [score_text(row["scores"][score], best[score]) for score in scores]
        table.add_row(Text(name), *figures, *values, *([with_spread(row["fine_tuned"])] if compared else []))
    spent = [total([row[key] for row in rows]) for key in costs.values()]
    spent += [total([row["score_seconds"][score] for row in rows]) for score in scores]
    table.add_section()
    table.add_row("seconds", *spent, style="dim")
    if compared:
        taus = ranking["weighted_tau"]
        table.add_row("weighted Kendall tau", *[""] * len(costs), *(tau_text(taus[name]) for name in scores))
    return table


def labels(candidates: Sequence[Sequence[str]]) -> list[str]:
    """What tells the overrides of candidates apart, with the last parts of keys and paths.

    >>> labels([["a=1", "b.x=/d/u.npz"], ["a=1", "b.x=/d/v.npz"]])
    ['x=u.npz', 'x=v.npz']
    """
    split = [[text.lstrip("+~").partition("=") for text in overrides] for overrides in candidates]
    typed = [{key: value for key, _, value in one} for one in split]
    keys = dict.fromkeys(key for one in typed for key in one)
    columns = {key: [one.get(key) for one in typed] for key in keys}
    apart = {key: shortened(column) for key, column in columns.items() if len(set(column)) > 1 or len(typed) == 1}
    names = short_names(list(apart))
    return [
        " ".join(f"{names[key]}={column[i]}" for key, column in apart.items() if column[i] is not None) or "default"
        for i in range(len(typed))
    ]


def shortened(column: Sequence[str | None]) -> list[str | None]:
    """Paths by their last part, where that leaves as many different ones."""
    short = [Path(value).name if value is not None and "/" in value else value for value in column]
    return short if len(set(short)) == len(set(column)) else list(column)


def score_text(value: float | None, best: float | None) -> Text:
    """A score with three decimals, bold where it is the best of its column."""
    return Text(ABSENT) if value is None else Text(f"{value:.3f}", style="bold" if value == best else "")


def tau_text(value: float | None) -> str:
    """A rank correlation."""
    return ABSENT if value is None else f"{value:+.2f}"


def seconds(value: float) -> str:
    """Seconds with one decimal, or two below a tenth.

    >>> seconds(12.34), seconds(0.034)
    ('12.3', '0.03')
    """
    return f"{value:.1f}" if value >= 0.1 else f"{value:.2f}"


def total(values: Sequence[float | None]) -> str:
    """The sum of seconds; nothing where there are none."""
    known = [value for value in values if value is not None]
    return seconds(sum(known)) if known else ABSENT


def ranking_csv(ranking: Mapping[str, Any]) -> str:
    """One line a candidate, in order: rank, what it is, scores, what each cost, and its fine-tuned accuracy."""
    lines = []
    for place, row in enumerate(in_order(ranking["candidates"], ranking["by"]), 1):
        line = {"rank": place, "candidate": " ".join(row["overrides"])}
        line |= {name: row[name] for name in ("weights", "num_samples", "num_classes", "num_features")}
        line |= dict(row["scores"])
        line |= {name: row[name] for name in ("pretrain_seconds", "features_seconds")}
        line |= {f"{name}_seconds": value for name, value in row["score_seconds"].items()}
        figure = row["fine_tuned"] or {}
        line |= {"fine_tuned": figure.get("mean"), "fine_tuned_std": figure.get("std"), "runs": figure.get("n", 0)}
        lines.append(line)
    return csv_text(lines)
