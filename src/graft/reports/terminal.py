"""Tables for the terminal."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from graft.reports.notes import CAPTION, unfinished, warnings
from graft.reports.rules import collapse_notes, rules_of, rules_table, spoken
from graft.reports.settings import Record, short_names
from graft.reports.tables import ACCURACY, LOSS, baseline_of, group_rows, runs_of, short_fingerprint

FIGURES = ("n", "accuracy", "baseline", "gain", "seconds", "trained")
DISPENSABLE = ("trained", "seconds", "baseline")  # left out in this order where there is no room


def print_run(record: Record, folder: Path, console: Console) -> None:
    """The final table of one finished run: did transfer help, by how much, at what cost."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in run_rows(record):
        table.add_row(name, Text(value, style="bold" if name == "gain" else ""))
    console.print()
    console.print(Text(title(record), style="bold"))
    console.print(table)
    if has_moved(record.get("transferred", {})):
        console.print(groups_table(record["transferred"]["groups"]))
    if rules_of(record):
        console.print(rules_table(record))
    for heading, text in run_warnings(record):
        print_note(heading, text, "bold yellow", console)
    console.print(Text(str(folder), style="dim"), soft_wrap=True)


def title(record: Record) -> str:
    """What was transferred to what, and how."""
    origin = record["source"] if record["weights"] == "source" else record["weights"]
    return f"{origin} → {record['target']}, {record['backbone']}, {record['strategy']}, seed {record['seed']}"


def run_rows(record: Record) -> list[tuple[str, str]]:
    """The lines of the final table: (name, value)."""
    rule = spoken(record["selection"].get("rule"))
    rows = [("target accuracy", f"{percent(record['metrics'][ACCURACY])} on test" + (f", {rule}" if rule else ""))]
    rows += [
        (f"{name} baseline", f"{percent(baseline['metrics'][ACCURACY])}, same labels, epochs and head")
        for name, baseline in record["baselines"].items()
    ]
    if record["config"].get("adaptation"):
        rows.append(("target labels", f"{record['training_labels']:,} trained on"))
    if "open_set" in record.get("label_space", {}):
        rows.append(("open set", open_set_line(record["label_space"])))
    if record["transfer"]:
        rows.append(("gain", f"{points(record['transfer']['gain'])} over {record['transfer']['baseline']}"))
        rows.append(("baseline's best", passing(record)))
        if (lead := record["transfer"].get("mean_lead")) is not None:
            text = f"{points(lead)} against {record['transfer']['baseline']} at the same step, on average"
            rows.append(("accuracy on val", text))
    if "source/test/accuracy" in record["metrics"]:
        after = record["metrics"].get("source/test/accuracy_after_transfer")
        forgetting = "" if after is None else f" before transfer, {percent(after)} after"
        rows.append(("source accuracy", percent(record["metrics"]["source/test/accuracy"]) + forgetting))
    if "transferred" in record:
        rows.append(("backbone", moving(record["transferred"])))
    rows += domain_rows(record)
    rows += calibration_rows(record)
    rows += [(f"after: {name}", after_line(result, record)) for name, result in record.get("after", {}).items()]
    cost = record["cost"]
    seconds = f"{cost['pretrain_seconds']:.1f} pretraining, {cost['fit_seconds']:.1f} transfer"
    if cost.get("selection_seconds"):
        seconds += f", {cost['selection_seconds']:.1f} scoring epochs"
    rows.append(("seconds", seconds + (f", {cost['baseline_seconds']:.1f} baseline" if record["baselines"] else "")))
    rows.append(("parameters trained", f"{cost['trainable_parameters']:,} of {cost['num_parameters']:,}"))
    return rows


def open_set_line(space: Mapping[str, Any]) -> str:
    """What became of images of unknown classes, and of the others beside them."""
    scores, rule = space["open_set"]["transfer"], space["unknown"]
    before = space["open_set"]["source_only"]["h_score"]
    return (
        f"{percent(scores['known_accuracy'])} of known classes, {percent(scores['unknown_accuracy'])} of unknown ones, "
        f"H-score {percent(scores['h_score'])} (source_only {percent(before)}) "
        f"at {rule['confidence']} {rule['threshold']:g}"
    )


def after_line(result: Mapping[str, Any], record: Record) -> str:
    """What a method that follows training made of the headline figures."""
    chosen = ", ".join(
        f"{key} {value:.3g}" for key, value in result.items() if isinstance(value, int | float) and key != "seconds"
    )
    before, metrics = record["metrics"], result["metrics"]
    calibration = "target/test/calibration_error"
    text = f"{percent(metrics[ACCURACY])} on test ({points(metrics[ACCURACY] - before[ACCURACY])})"
    text += f", calibration error {percent(before[calibration])} to {percent(metrics[calibration])}"
    return f"{text}; {chosen}" if chosen else text


def passing(record: Record) -> str:
    """When the validation accuracy first reached the baseline's best, beside when the baseline itself did."""
    transfer = record["transfer"]
    if not has_validation(record) or not has_validation(baseline_of(record)):
        return "not compared: no validation accuracy by epoch"
    best = max(baseline_of(record)["history"], key=lambda row: row.get("val/accuracy", 0.0))
    if transfer["steps_to_pass_baseline"] is None:
        return f"{percent(best['val/accuracy'])} on val, not reached"
    spent = f"epoch {transfer['epochs_to_pass_baseline']}, step {transfer['steps_to_pass_baseline']}"
    reached = f"reached at {spent}, {transfer['seconds_to_pass_baseline']:.1f} s"
    speedup = f": {transfer['speedup_in_steps']:.1f}x as soon" if transfer.get("speedup_in_steps") else ""
    return f"{reached} (baseline: {best['epoch']}, {best['step']}, {best['seconds']:.1f} s{speedup})"


def moving(transferred: Mapping[str, Any]) -> str:
    """How far the parameters of the backbone moved, as a share of the length that they began with."""
    if not transferred:
        return "began from scratch: nothing was transferred"
    if transferred["moved"] is None:
        return "moved to values that are not finite numbers"
    if not has_moved(transferred):
        return "is as it was transferred"
    return f"moved by {share_moved(transferred['moved'], transferred['moved_relative'])} of its parameters' length"


def has_moved(transferred: Mapping[str, Any]) -> bool:
    """Whether any parameter or running statistic is not what it was."""
    rows = transferred.get("groups", {}).values()
    return any(row["moved"] != 0.0 or row["buffers_moved"] not in (0.0, None) for row in rows)


def share_moved(moved: float | None, relative: float | None) -> str:
    """A distance as a share; as it is where there is nothing to relate it to.

    >>> share_moved(3.0, 0.125), share_moved(1e-5, 1e-6), share_moved(0.0, 0.0), share_moved(0.5, None)
    ('12.5 %', '<0.1 %', '0', '0.5 from 0')
    """
    if moved is None:
        return ""
    if relative is None:
        return f"{moved:.3g} from 0"
    return "0" if moved == 0 else "<0.1 %" if relative < 5e-4 else percent(relative)


def groups_table(groups: Mapping[str, Mapping[str, Any]]) -> Table:
    """How far each layer group moved relative to its start, and the CKA between what it gave before and after."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    with_buffers = any(row["buffers_moved"] is not None for row in groups.values())
    table.add_column("layer group", style="dim")
    for heading in ("moved", *(["norm statistics"] if with_buffers else []), "CKA"):
        table.add_column(heading, justify="right")
    for name, row in groups.items():
        cells = [share_moved(row["moved"], row["moved_relative"])]
        if with_buffers:
            cells.append(share_moved(row["buffers_moved"], row["buffers_moved_relative"]))
        table.add_row(name, *cells, "" if row["cka"] is None else f"{row['cka']:.3f}")
    return table


def domain_rows(record: Record) -> list[tuple[str, str]]:
    """How far apart the domains' features lay before and after; no line where that was not looked at."""
    distances = record.get("domains", {}).get("a_distance", {})
    if not distances:
        return []
    start, end = ("not finite" if distances[name] is None else f"{distances[name]:.2f}" for name in ("start", "end"))
    return [("A-distance", f"{start} before, {end} after (2: domains are told apart by their features; 0: never)")]


def calibration_rows(record: Record) -> list[tuple[str, str]]:
    """How far the probabilities on the target's test split can be believed, beside the baseline's; or no line."""
    networks = {"": record} | (
        {f"{record['transfer']['baseline']}: ": baseline_of(record)} if record["transfer"] else {}
    )
    texts = []
    for name, network in networks.items():
        values = [
            network["metrics"].get(f"target/test/{score}") for score in ("calibration_error", "loss", "brier_score")
        ]
        if any(value is None for value in values):
            return []
        error, loss, brier = values
        texts.append(f"{name}error {percent(error)}, loss {loss:.3f}, Brier {brier:.3f}")
    return [("calibration", texts[0] + (f" ({texts[1]})" if len(texts) > 1 else ""))]


def has_validation(outcome: Mapping[str, Any]) -> bool:
    """Whether there is a validation accuracy to follow."""
    return any("val/accuracy" in row for row in outcome["history"])


def run_warnings(record: Record) -> list[tuple[str, str]]:
    """What must be said beside the final table: (heading, text)."""
    notes = []
    if record["transfer"].get("negative"):
        baseline = record["transfer"]["baseline"]
        text = f"{record['strategy']} ended below its {baseline} baseline on the same labels and budget"
        notes.append(("Negative transfer", text))
    if record["metrics"].get(LOSS, 0.0) is None:
        notes.append(("Diverged", "the loss on target test is not a finite number; try a lower optimizer.lr"))
    return notes + collapse_notes(record)


def print_summary(records: Sequence[tuple[Path, Record]], console: Console) -> None:
    """One row for each setting, over its seeds; then every run that failed or has no end."""
    records = runs_of(records)
    rows = group_rows(records.study)
    console.print()
    if rows:
        cells = [dict(zip(FIGURES, figures(row), strict=True)) for row in rows]
        table, hidden = fitting_table(rows, cells, DISPENSABLE, console)
        console.print(table)
        console.print(Text(CAPTION + (f"; no room for {', '.join(hidden)}" if hidden else ""), style="dim"))
    for heading, text in warnings(records.study, rows):
        print_note(heading, text, "bold yellow", console)
    for status, text in unfinished(records):
        print_note(status, text, "bold red", console)


def print_note(heading: str, text: str, style: str, console: Console) -> None:
    """A line that begins with a coloured heading; folders and names in it are shown letter by letter."""
    console.print(Text.assemble((heading, style), ": ", text), soft_wrap=True)


def fitting_table(
    rows: Sequence[Mapping[str, Any]],
    cells: Sequence[Mapping[str, str]],
    dispensable: tuple[str, ...],
    console: Console,
) -> tuple[Table, tuple[str, ...]]:
    """A table that the console has room for, and the figures left out for that, in the order of `dispensable`.

    Headings are broken before a figure is left out; what varied is never left out. `rows` say with `setting` and
    `differs` what tells them apart, and `cells` hold their figures as text, by heading.
    """
    unlimited = console.options.update(max_width=10_000)
    layouts = [((), False), *((dispensable[:count], True) for count in range(len(dispensable) + 1))]
    for hidden, broken in layouts:
        table = summary_table(rows, cells, hidden, broken)
        if Measurement.get(console, unlimited, table).maximum <= console.width:
            break
    return table, hidden


def summary_table(
    rows: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, str]], hidden: Sequence[str], broken: bool
) -> Table:
    """The table without the figures `hidden`; `broken` sets long headings in several lines."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1) if not broken else (0, 1, 0, 0))
    headings, *lines = setting_cells(rows)
    for heading, *column in zip(headings, *lines, strict=True):
        width = max(len(cell) for cell in column)
        table.add_column(Text(break_heading(heading, width) if broken else heading), overflow="fold")
    shown = [name for name in cells[0] if name not in hidden]
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for line, texts in zip(lines, cells, strict=True):
        table.add_row(*(Text(cell) for cell in (*line, *(texts[name] for name in shown))))
    return table


def break_heading(heading: str, width: int) -> str:
    """The heading in lines of at most `width` characters where it has places to break.

    >>> break_heading("labels_per_class", 10)
    'labels_\\nper_class'
    """
    lines = [""]
    for part in re.findall(r"[^_.]+[_.]?", heading):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def setting_cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """What tells rows apart, as text: a line of headings, then a line for each row."""
    names = short_names(list(rows[0]["setting"]))
    apart = list(dict.fromkeys(name for row in rows for name in row["differs"]))
    lines = [
        [*row["setting"].values(), *(short_fingerprint(row["differs"].get(name, "")) for name in apart)] for row in rows
    ]
    return [[*names.values(), *apart], *lines]


def figures(row: Mapping[str, Any]) -> list[str]:
    """The figures of a row of `group_rows` as text, one for each of `FIGURES`."""
    return [
        str(row["n"]),
        with_spread(row["accuracy"]),
        with_spread(row["baseline"]),
        with_spread(row["gain"], sign="+"),
        with_spread(row["seconds"], scale=1.0),
        f"{row['trainable_parameters']:,}",
    ]


def percent(value: float | None) -> str:
    """0.914 as `91.4 %`."""
    return "" if value is None else f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of accuracies, 0.052, as `+5.2 points`."""
    return f"{100 * value:+z.1f} points"


def with_spread(figure: Mapping[str, Any] | None, scale: float = 100.0, sign: str = "", digits: int = 1) -> str:
    """`91.4 ± 0.3`, or the mean alone where there is one value."""
    if figure is None:
        return ""
    mean = f"{scale * figure['mean']:{sign}z.{digits}f}"
    return mean if figure["std"] is None else f"{mean} ± {scale * figure['std']:.{digits}f}"
