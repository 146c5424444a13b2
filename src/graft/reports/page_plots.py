"""The plots of the page, from rows of the comparison and what their runs' folders hold."""

from base64 import b64encode
from collections import defaultdict
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from graft.reports.comparison import same_task
from graft.reports.labels import BUDGET
from graft.reports.notes import label
from graft.reports.settings import Record
from graft.reports.statistics import Figure
from graft.reports.svg import NUM_STYLES, Point, Series, line_chart, matrix_chart, scatter_chart, swatch
from graft.reports.tables import whole

# So much is drawn at most, and what is left out is said: thousands of runs must not make a page of a hundred megabytes.
MOST_LINES, MOST_POINTS, MOST_PANELS, MOST_CONFUSIONS = 12, 400, 12, 6
MOST_RUNS = 20  # of a setting, whose curves and confusion are read
MOST_STEPS = 60  # of a curve
MOST_CELLS = 30  # classes of a matrix whose cells are drawn one by one
LARGEST_PICTURE = 200_000  # bytes
PICTURE = Path("pictures") / "confused.png"

Row = Mapping[str, Any]
Styles = Mapping[str, int]
Folders = Mapping[int, Path]  # id of a record -> its run's folder


def apart_from_budget(row: Row) -> str:
    """A row's setting without its label budget: what one line over budgets, and one colour, stands for."""
    return label({name: value for name, value in row["setting"].items() if name not in BUDGET})


def styles_of(rows: Sequence[Row]) -> Styles:
    """A style for each setting apart from its budget, the same in every plot; what comes late is all grey."""
    names = dict.fromkeys(apart_from_budget(row) for row in rows)
    return {name: min(place, NUM_STYLES) for place, name in enumerate(names)}


def legend(styles: Styles, names: Sequence[str]) -> list[tuple[Markup, str]]:
    """A line for each name; those that are grey share one."""
    shown = [(Markup(swatch(styles[name])), name) for name in names if styles[name] < NUM_STYLES]
    others = sum(styles[name] >= NUM_STYLES for name in names)
    return [*shown, *([(Markup(swatch(NUM_STYLES)), f"{others} others")] if others else [])]


def band(figure: Figure) -> tuple[float, float | None, float | None]:
    """Mean and ends of its interval in %; no ends where there is one value."""
    mean, half = 100 * figure["mean"], figure["interval"]
    if half is None:
        return mean, None, None
    return mean, max(0.0, mean - 100 * half), min(100.0, mean + 100 * half)


def label_section(rows: Sequence[Row], styles: Styles) -> dict[str, Any] | None:
    """Accuracy over the label budget; None where it does not vary."""
    budget = next((name for name in BUDGET if name in rows[0]["setting"]), None)
    lines: dict[tuple[str, str], dict[float, Row]] = defaultdict(dict)
    for row in rows:
        value = row["setting"].get(budget, "null")
        if value.replace(".", "", 1).isdigit():
            lines[apart_from_budget(row), repr(row["differs"])][float(value)] = row
    if budget is None or len({x for line in lines.values() for x in line}) < 2:
        return None
    best = sorted(lines, key=lambda key: -max(row["accuracy"]["mean"] for row in lines[key].values()))[:MOST_LINES]
    series = [
        Series(name, [(x, *band(row["accuracy"])) for x, row in sorted(lines[name, apart].items())], styles[name])
        for name, apart in sorted(best, key=lambda key: styles[key[0]])
    ]
    signs = legend(styles, list(dict.fromkeys(each.name for each in series)))
    baseline = baseline_series(rows, str(budget))
    if baseline is not None and not any("strategy=scratch" in each.name.split() for each in series):
        series.append(baseline)
        signs.append((Markup(swatch(NUM_STYLES, dashed=True)), baseline.name))
    text = "labels per class" if budget == BUDGET[0] else "share of the labels"
    xs = sorted({x for each in series for x, *_ in each.points})
    chart = line_chart(
        f"Accuracy against {text}", series, text, "accuracy in %", log_x=True, ticks=xs if len(xs) < 8 else ()
    )
    left_out = f"; the best {len(best)} of {len(lines)} settings" if len(lines) > len(best) else ""
    return {"chart": Markup(chart), "legend": signs, "caption": f"Mean, and its 95 % interval over seeds{left_out}."}


def baseline_series(rows: Sequence[Row], budget: str) -> Series | None:
    """The mean of the runs' own baselines over the budget, where all have the same kind and it is one for each budget.

    Over one target and seeds, the rows of a budget have the same baselines, and the first row's stand for them.
    """
    with_baseline = [row for row in rows if row["baseline"] and row["setting"][budget].replace(".", "", 1).isdigit()]
    kinds = {record["transfer"]["baseline"] for row in with_baseline for record in row["records"] if record["transfer"]}
    found: dict[float, set[float]] = defaultdict(set)
    figures: dict[float, Figure] = {}
    for row in with_baseline:
        x = float(row["setting"][budget])
        found[x].add(round(row["baseline"]["mean"], 9))
        figures.setdefault(x, row["baseline"])
    if len(kinds) != 1 or any(len(means) > 1 for means in found.values()):
        return None
    return Series(f"{kinds.pop()} baseline", [(x, *band(figures[x])) for x in sorted(figures)], NUM_STYLES, dashed=True)


def cost_section(rows: Sequence[Row], styles: Styles) -> dict[str, Any]:
    """Accuracy over seconds and over parameters trained, with the fronts."""
    shown = sorted(rows, key=lambda row: (-sum(row["front"].values()), -row["accuracy"]["mean"]))[:MOST_POINTS]
    costs = {
        "seconds": ("seconds of fitting on the target", lambda row: row["seconds"]["mean"]),
        "trained": ("parameters trained", lambda row: row["trainable_parameters"]),
    }
    charts = []
    for name, (text, cost) in costs.items():
        points = [
            Point(
                x=cost(row),
                y=100 * row["accuracy"]["mean"],
                half=100 * row["accuracy"]["interval"] if row["accuracy"]["interval"] and len(shown) <= 60 else None,
                text=f"{label(row['setting'])}: {100 * row['accuracy']['mean']:.1f} %, {cost(row):,.6g} {text}",
                style=styles[apart_from_budget(row)],
                on_front=row["front"][name],
                task=same_task(row),
            )
            for row in shown
            if cost(row) > 0
        ]
        if points:
            charts.append(Markup(scatter_chart(f"Accuracy against {text}", points, text, "accuracy in %")))
    left_out = f" {len(shown)} of {len(rows)} settings, those on a front first." if len(shown) < len(rows) else ""
    caption = (
        "Ringed and joined by a dotted line: the front of each target and label budget, beyond which nothing is as "
        f"accurate for less. Bars: 95 % interval over seeds.{left_out}"
    )
    names = list(dict.fromkeys(apart_from_budget(row) for row in rows if row in shown))
    return {"charts": charts, "legend": legend(styles, names) if names != ["one setting"] else [], "caption": caption}


def best_rows(rows: Sequence[Row], most: int) -> list[Row]:
    """The most accurate rows."""
    return sorted(rows, key=lambda row: -row["accuracy"]["mean"])[:most]


def whole_records(row: Row, folders: Folders) -> list[tuple[Path, Record]]:
    """Folders and records of a row's first runs, read again with all that they say."""
    return [
        (folder, whole(folder, record)) for record in row["records"][:MOST_RUNS] for folder in [folders[id(record)]]
    ]


def curve_section(rows: Sequence[Row], folders: Folders) -> dict[str, Any] | None:
    """Validation accuracy over the steps, of each of the best settings beside its baseline; None where unknown."""
    panels, with_baseline = [], False
    shown = best_rows(rows, MOST_PANELS)
    for row in (each for each in rows if any(each is other for other in shown)):
        records = [record for _, record in whole_records(row, folders)]
        compared = [record for record in records if record["transfer"]]
        base = mean_curve([record["baselines"][record["transfer"]["baseline"]]["history"] for record in compared])
        curve = mean_curve([record["history"] for record in records])
        if not curve:
            continue
        series = [Series("run", curve, 0, markers=len(curve) == 1)]
        if base:
            with_baseline = True
            series.insert(0, Series("its baseline", base, 1, dashed=True, markers=len(base) == 1))
        title = f"Learning curve of {label(row['setting'])}"
        chart = line_chart(title, series, "optimiser step", "accuracy on val, %")
        panels.append((label(row["setting"]), Markup(chart)))
    if not panels:
        return None
    left_out = f" The best {len(shown)} of {len(rows)} settings." if len(shown) < len(rows) else ""
    signs = [(Markup(swatch(0)), "the setting")]
    if with_baseline:
        signs.append((Markup(swatch(1, dashed=True)), "its own baseline, on the same labels and budget"))
    caption = (
        f"Accuracy on validation samples after each epoch: mean, and from the lowest to the highest seed.{left_out}"
    )
    return {"panels": panels, "legend": signs, "caption": caption}


def mean_curve(
    histories: Sequence[Sequence[Mapping[str, Any]]],
) -> list[tuple[float, float, float | None, float | None]]:
    """Step, mean, lowest and highest validation accuracy in %, at steps that all histories have, at most 60 of them."""
    curves = [
        {row["step"]: 100 * row["val/accuracy"] for row in history if row.get("val/accuracy") is not None}
        for history in histories
    ]
    if not curves:
        return []
    steps = sorted(set.intersection(*(set(curve) for curve in curves)))
    if len(steps) > MOST_STEPS:
        steps = [steps[place] for place in np.linspace(0, len(steps) - 1, MOST_STEPS).round().astype(int).tolist()]
    columns = [(step, [curve[step] for curve in curves]) for step in steps]
    several = len(curves) > 1
    return [
        (step, fmean(values), min(values) if several else None, max(values) if several else None)
        for step, values in columns
    ]


def confusion_section(rows: Sequence[Row], folders: Folders) -> dict[str, Any] | None:
    """Confusion matrices of the best settings, summed over their runs, with pictures where a run kept some."""
    best = best_rows(rows, MOST_CONFUSIONS)
    shown = [found for row in best if (found := confusion_of_row(row, folders)) is not None]
    if not shown:
        return None
    left_out = f", for the best {len(best)} of {len(rows)} settings" if len(best) < len(rows) else ""
    return {
        "shown": shown,
        "caption": f"Images of the target's test split, summed over the runs of a setting{left_out}.",
    }


def confusion_of_row(row: Row, folders: Folders) -> dict[str, Any] | None:
    """The confusion matrix of a row, its commonest errors and a picture; None where its records have none."""
    runs = [(folder, record) for folder, record in whole_records(row, folders) if "classes" in record]
    if not runs:
        return None
    names = runs[0][1]["classes"]["names"]
    counts = np.sum([record["classes"]["confusion"] for _, record in runs], axis=0)
    title = f"Confusion matrix of {label(row['setting'])}"
    if len(names) <= MOST_CELLS:
        matrix = Markup(matrix_chart(title, counts.tolist(), names))
    else:
        matrix = Markup('<img class="pixels" src="{}" alt="{}">').format(matrix_picture(counts), title)
    seed, picture = next(
        ((record["seed"], found) for folder, record in runs if (found := picture_of(folder)) is not None), (None, None)
    )
    return {
        "name": f"{label(row['setting'])}: {100 * row['accuracy']['mean']:.1f} %",
        "matrix": matrix,
        "caption": f"Rows are labels, columns predictions, deep colours common; runs: {len(runs)}.",
        "errors": commonest_errors(counts, names),
        "picture": picture,
        "seed": seed,
    }


def commonest_errors(counts: np.ndarray, names: Sequence[str], num: int = 8) -> list[dict[str, Any]]:
    """The largest cells off the diagonal of a confusion matrix [k, k], most first, with their share of the label's."""
    errors = counts.copy()
    np.fill_diagonal(errors, 0)
    places = [divmod(int(place), len(names)) for place in np.argsort(-errors, axis=None, kind="stable")[:num]]
    return [
        {
            "label": names[row],
            "predicted": names[column],
            "samples": int(counts[row, column]),
            "share": float(counts[row, column] / counts[row].sum()),
        }
        for row, column in places
        if errors[row, column]
    ]


def matrix_picture(counts: np.ndarray) -> str:
    """A confusion matrix with a pixel for each cell, as a data URL: the larger its share of the row, the less clear."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    pixels = np.zeros((*counts.shape, 4), dtype=np.uint8)
    pixels[..., :3] = np.where(np.eye(len(counts), dtype=bool)[..., None], (0, 114, 178), (213, 94, 0))
    pixels[..., 3] = np.where(counts > 0, 30 + 225 * shares, 0).round()
    data = BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data_url(data.getvalue())


def picture_of(folder: Path) -> str | None:
    """The run's picture of what it confused, as a data URL; None where there is none, or one too large."""
    path = folder / PICTURE
    if not path.is_file() or path.stat().st_size > LARGEST_PICTURE:
        return None
    return data_url(path.read_bytes())


def data_url(data: bytes) -> str:
    """A PNG as an address that holds it."""
    return f"data:image/png;base64,{b64encode(data).decode()}"
