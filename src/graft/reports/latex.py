"""The summary as a LaTeX table."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.reports.comparison import Reference, compared_rows
from graft.reports.comparison_table import comparison_cells, method
from graft.reports.settings import Record
from graft.reports.tables import runs_of
from graft.reports.terminal import setting_cells

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
} | {character: f"\\{character}" for character in "&%$#_{}"}


def latex_summary(records: Sequence[tuple[Path, Record]], reference: Reference) -> str:
    """A `table` with one row for each setting and its comparison with the reference; needs the package booktabs.

    Without a finished run it is a comment that says so.
    """
    rows = compared_rows(runs_of(records).study, reference)
    if not rows:
        return "% no finished run\n"
    headings, *settings = setting_cells(rows)
    cells = [figures(each, texts) for each, texts in zip(rows, comparison_cells(rows, reference), strict=True)]
    lines = [[*names, *texts.values()] for names, texts in zip(settings, cells, strict=True)]
    columns = "l" * len(headings) + "r" * len(cells[0])
    body = [row_of(escape(cell) for cell in [*headings, *cells[0]]), r"\midrule"]
    body += [
        row_of(number(cell) if at >= len(headings) else escape(cell) for at, cell in enumerate(each)) for each in lines
    ]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(method(rows, reference))}.}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def figures(each: Mapping[str, Any], compared: Mapping[str, str]) -> dict[str, str]:
    """The figures of a row as text, by heading."""
    costs = {"seconds": f"{each['seconds']['mean']:.1f}", "trained": f"{each['trainable_parameters']:,}"}
    return {"n": str(each["n"])} | {name: text for name, text in compared.items() if name != "front"} | costs


def row_of(cells: Any) -> str:
    """Cells as a line of a tabular."""
    return " & ".join(cells) + r" \\"


def escape(text: str) -> str:
    """The text as LaTeX prints it.

    >>> escape("lr_0 & 50 %")
    'lr\\\\_0 \\\\& 50 \\\\%'
    """
    return "".join(SPECIAL.get(character, character) for character in text)


def number(text: str) -> str:
    """A figure in math mode, so that its sign is a minus and not a hyphen; words are words.

    >>> number("+4.6 ± 0.1")
    '$+4.6 \\\\pm 0.1$'
    """
    if not re.fullmatch(r"[<+-]?[\d,.]+( ± [\d.]+)?", text):
        return escape(text)
    return "$" + text.replace("±", r"\pm").replace(",", "{,}") + "$"
