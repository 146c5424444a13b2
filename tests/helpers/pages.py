"""A report's page in memory: from records written by hand, and what its tables say."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image
from records_by_hand import done, failed, in_folders

from graft.reports.page import html_report

HOSTILE = "<script>window.hacked=1</script>"
SCRATCH = {1: [0.40, 0.45, 0.41], 5: [0.70, 0.74, 0.69]}
SWEEP = {
    ("linear_probe", 1): [0.55, 0.52, 0.58],
    ("linear_probe", 5): [0.68, 0.71, 0.70],
    ("fine_tune", 1): [0.61, 0.63, 0.70],
    ("fine_tune", 5): [0.82, 0.85, 0.80],
}
CONFUSION = [[18, 2, 0], [5, 14, 1], [0, 0, 20]]


def sweep(names: tuple[str, ...] = ("cat", HOSTILE, '"dog" & co')) -> list[dict[str, Any]]:
    """Two strategies, two budgets, three seeds; a class, a strategy and a failure that would be markup."""
    records = []
    for (strategy, labels), values in SWEEP.items():
        for seed, value in enumerate(values):
            record = done(value, SCRATCH[labels][seed], strategy=strategy, seed=seed, target_labels_per_class=labels)
            record["classes"] = {"names": list(names), "confusion": CONFUSION}
            record["fingerprints"]["target_data"] = f"{labels:064x}"
            record["cost"]["trainable_parameters"] = 850 if strategy == "linear_probe" else 61326
            records.append(record)
    return [*records, failed(f"no {HOSTILE}", strategy="<img src=x onerror=alert(1)>", seed=7)]


def page(records: list[dict[str, Any]], root: Path = Path("/sweep"), **reference: str) -> str:
    return html_report(in_folders(*records, root=root), reference)


def with_picture(run: Path) -> Path:
    """A run's folder with a picture of what it confused."""
    (run / "pictures").mkdir(parents=True)
    Image.new("RGB", (60, 40), "red").save(run / "pictures" / "confused.png")
    return run


class Tables(HTMLParser):
    """The tables of a page by id: for each row of the body its cells' (text, value)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[list[str | None]]]] = {}
        self.headings: dict[str, list[str]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: str | None = None
        self.table = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "table":
            self.table = str(attributes.get("id"))
            self.tables[self.table], self.headings[self.table] = [], []
        if tag == "tr":
            self.tables[self.table].append([])
        if tag == "td":
            self.tables[self.table][-1].append(["", attributes.get("data-value")])
        if tag == "th":
            self.headings[self.table].append("")
        if tag in ("td", "th", "caption"):
            self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "caption"):
            self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside == "td":
            cell = self.tables[self.table][-1][-1]
            cell[0] = str(cell[0]) + data
        if self.inside == "th":
            self.headings[self.table][-1] += data

    def rows(self, table: str) -> list[dict[str, list[str | None]]]:
        """The rows of a body, each as heading -> (text, value)."""
        return [dict(zip(self.headings[table], cells, strict=True)) for cells in self.tables[table] if cells]
