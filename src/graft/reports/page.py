"""The report as one HTML page that needs nothing beside it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from graft import __version__
from graft.errors import listed
from graft.reports.comparison import Reference, compared_rows, importance, is_reference
from graft.reports.comparison_table import front_text, limits, method, p_text, reference_text, with_interval
from graft.reports.notes import label, reason, unfinished, warnings
from graft.reports.page_plots import confusion_section, cost_section, curve_section, label_section, styles_of
from graft.reports.settings import Record, short_names, value_of
from graft.reports.tables import ACCURACY, Runs, finished, runs_of, short_fingerprint

ASSETS = files("graft.reports") / "assets"
MOST_NOTES = 20  # runs without an end that are named above the tables; all are in the table of runs


def html_report(runs: Sequence[tuple[Path, Record]], reference: Reference) -> str:
    """The page: what was compared, its tables and plots, and how they were computed."""
    runs = runs_of(runs)
    rows = compared_rows(runs.study, reference)
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(asset("page.html"))
    return template.render(
        version=__version__,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        style=Markup(asset("style.css")),
        script=Markup(asset("script.js")),
        **heading(runs, rows, reference),
        **content(runs, rows, reference),
    )


def asset(name: str) -> str:
    """The text of a file that comes with this package."""
    return (ASSETS / name).read_text(encoding="utf-8")


def heading(runs: Runs, rows: Sequence[Mapping[str, Any]], reference: Reference) -> dict[str, Any]:
    """What the page is about, and what must be said before its tables."""
    records = runs.study
    done = finished(records)
    pairs = dict.fromkeys(
        f"{record['source']} → {record['target']}" if record.get("source") else str(record["target"]) for record in done
    )
    title = listed(pairs or dict.fromkeys(record["experiment"] for record in records), 3)
    times = sorted(time for record in records for time in (record["started"], record["finished"]) if time)
    when = f"{spoken(times[0])} to {spoken(times[-1])}" if times else ""
    names = short_names(records.names)
    varied = listed(names.values(), 6) or "nothing but seeds"
    failures = unfinished(runs)
    notes = [*warnings(records, rows), *limits(rows, reference), *failures[:MOST_NOTES]]
    if len(failures) > MOST_NOTES:
        notes.append(("Unfinished", f"{len(failures) - MOST_NOTES} more runs have no end"))
    return {
        "title": title,
        "subtitle": f"{when}. Varied: {varied}. Compared with {reference_text(rows, reference)}.",
        "facts": facts(runs, rows),
        "notes": notes,
    }


def facts(runs: Runs, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The figures at the top: (value, what it is)."""
    records = runs.study
    num_done = len(finished(records))
    found = [(f"{num_done:,}", "runs" if num_done == len(records) else f"of {len(records):,} runs came to their end")]
    if not rows:
        return found
    best = max(rows, key=lambda each: each["accuracy"]["mean"])
    found.append((f"{len(rows):,}", "settings" if len(rows) > 1 else "setting"))
    found.append((f"{with_interval(best['accuracy'])} %", f"highest accuracy: {label(best['setting'])}"))
    gained = [each for each in rows if each["comparison"]["difference"]]
    if gained:
        most = max(gained, key=lambda each: each["comparison"]["difference"]["mean"])
        text = f"points, largest difference: {label(most['setting'])}"
        found.append((with_interval(most["comparison"]["difference"], sign="+"), text))
    tested = [each["comparison"]["adjusted"] for each in rows if each["comparison"]["adjusted"] is not None]
    if tested:
        found.append((f"{sum(p < 0.05 for p in tested)} of {len(tested)}", "differences with p (Holm) below 0.05"))
    return found


def spoken(time: str) -> str:
    """A time as it is written, to the minute.

    >>> spoken("2026-01-02T03:04:05+00:00")
    '2026-01-02 03:04'
    """
    return time[:16].replace("T", " ")


def content(runs: Runs, rows: Sequence[Mapping[str, Any]], reference: Reference) -> dict[str, Any]:
    """Tables and plots."""
    records, folders = runs.study, {id(record): folder for folder, record in runs}
    found = importance(records)
    parts: dict[str, Any] = {"labels": None, "costs": None, "curves": None, "confusions": None}
    if rows:
        styles = styles_of(rows)
        parts = {
            "labels": label_section(rows, styles),
            "costs": cost_section(rows, styles),
            "curves": curve_section(rows, folders),
            "confusions": confusion_section(rows, folders),
        }
    titles = {
        "settings": ("Settings", rows),
        "labels": ("Labels", parts["labels"]),
        "cost": ("Cost", parts["costs"]),
        "curves": ("Learning curves", parts["curves"]),
        "importance": ("What mattered", found),
        "confusion": ("Confusion", parts["confusions"]),
        "runs": ("Runs", True),
        "how": ("How", True),
    }
    return {
        "sections": [(anchor, text) for anchor, (text, there) in titles.items() if there],
        "settings": settings_table(rows, reference),
        "runs": runs_table(runs),
        "method": method(rows, reference) if rows else "",
        "importance": found,
        "has_rest": any(each["name"] == "rest" for each in found),
        "num_counted": len(records.counted),
        "seeds_pretraining": any(record["weights"] == "source" for record in finished(records)),
        **parts,
    }


def column(name: str, text: bool = False, hint: str = "") -> dict[str, Any]:
    """A column of a table; `text` is set flush left and sorted as text."""
    return {"name": name, "text": text, "hint": hint}


def cell(text: str, value: Any = None, kind: str = "") -> dict[str, Any]:
    """A cell; `value` is the number that it is sorted by, "" where it has none, None for text."""
    return {"text": text, "value": value, "kind": kind}


def number_cell(text: str, value: float | None, kind: str = "") -> dict[str, Any]:
    """A cell that is sorted by a number."""
    return cell(text, "" if value is None else repr(value), kind)


def settings_table(rows: Sequence[Mapping[str, Any]], reference: Reference) -> dict[str, Any]:
    """One line for each setting."""
    if not rows:
        return {"columns": [], "lines": []}
    names = short_names(list(rows[0]["setting"]))
    apart = list(dict.fromkeys(name for each in rows for name in each["differs"]))
    columns = [
        *(column(short, text=True, hint=name) for name, short in names.items()),
        *(column(name, text=True) for name in apart),
        column("n", hint="runs, one for each seed"),
        column("accuracy", hint="mean on the target's test split in %, with the half-width of its interval"),
        column("difference", hint="to the reference, in points"),
        column("pairs", hint="runs that have a partner with the same seeds and splits"),
        column("p", hint="two-sided paired t test"),
        column("p (Holm)", hint="corrected for the number of comparisons"),
        column("seconds", hint="of fitting on the target, mean"),
        column("trained", hint="parameters trained"),
        column("front", text=True, hint="costs by which nothing is as accurate for less"),
    ]
    return {"columns": columns, "lines": [setting_line(each, apart, reference) for each in rows]}


def setting_line(each: Mapping[str, Any], apart: Sequence[str], reference: Reference) -> list[dict[str, Any]]:
    """The cells of a setting."""
    compared, accuracy = each["comparison"], each["accuracy"]
    difference = compared["difference"]
    mean = difference["mean"] if difference else None
    change = "gain-up" if mean and mean > 0 else "gain-down" if mean and mean < 0 else ""
    shown = "reference" if is_reference(each, reference) else with_interval(difference, sign="+")
    return [
        *(text_cell(value) for value in each["setting"].values()),
        *(cell(short_fingerprint(each["differs"].get(name, "")), kind="text") for name in apart),
        number_cell(str(each["n"]), each["n"]),
        number_cell(with_interval(accuracy), accuracy["mean"]),
        number_cell(shown, mean, change),
        number_cell(str(compared["pairs"] or ""), compared["pairs"]),
        number_cell(p_text(compared["p"]), compared["p"]),
        number_cell(p_text(compared["adjusted"]), compared["adjusted"]),
        number_cell(f"{each['seconds']['mean']:.1f}", each["seconds"]["mean"]),
        number_cell(f"{each['trainable_parameters']:,}", each["trainable_parameters"]),
        cell(front_text(each["front"]), kind="text whole"),
    ]


def text_cell(value: str) -> dict[str, Any]:
    """A value of a setting, sorted as the number that it may be."""
    try:
        return cell(value, repr(float(value)), "text") if value.lower() not in ("nan", "inf", "-inf") else cell(value)
    except ValueError:
        return cell(value, kind="text")


def points(value: float | None, sign: str = "") -> str:
    """A fraction in hundredths."""
    return "" if value is None else f"{100 * value:{sign}z.1f}"


def runs_table(runs: Runs) -> dict[str, Any]:
    """One line for each run."""
    names = short_names(runs.study.names)
    columns = [
        column("run", text=True),
        *(column(short, text=True, hint=name) for name, short in names.items()),
        column("seed"),
        column("status", text=True),
        column("accuracy"),
        column("gain", hint="over its own baseline, in points"),
        column("seconds"),
        column("trained"),
    ]
    return {"columns": columns, "lines": [run_line(folder, record, list(names)) for folder, record in runs]}


def run_line(folder: Path, record: Record, names: Sequence[str]) -> list[dict[str, Any]]:
    """The cells of a run; of one without an end, why it has none."""
    cells = [cell("/".join(folder.parts[-2:]), kind="text"), *(text_cell(value_of(record, name)) for name in names)]
    cells.append(number_cell(str(record["seed"]), record["seed"]))
    if record["status"] != "done":
        return [*cells, cell(f"{record['status']}: {reason(record)}", kind="text"), *([number_cell("", None)] * 4)]
    gain, cost, accuracy = record["transfer"].get("gain"), record["cost"], record["metrics"][ACCURACY]
    return [
        *cells,
        cell("done", kind="text"),
        number_cell(points(accuracy), accuracy),
        number_cell(points(gain, "+"), gain),
        number_cell(f"{cost['fit_seconds']:.1f}", cost["fit_seconds"]),
        number_cell(f"{cost['trainable_parameters']:,}", cost["trainable_parameters"]),
    ]
