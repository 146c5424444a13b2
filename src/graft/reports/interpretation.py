"""What `graft interpret` found: in the terminal, and as a page beside its pictures."""

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment
from rich.console import Console
from rich.table import Table
from rich.text import Text

from graft.reports.terminal import percent, print_note

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<style>body { font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em } img { max-width: 100% }
table { border-collapse: collapse } td, th { padding: .1em .8em; text-align: left; border-bottom: 1px solid #ddd }
</style>
<h1>{{ title }}</h1>
<p>{{ accuracy }} of {{ num_images }} {{ split }} images, loss {{ '%.3f' | format(loss) }}
{%- if temperature %}; calibrated (temperature {{ '%.3g' | format(temperature) }}){% endif %}.
{% if map_layer %}Beside each image: Grad-CAM at {{ map_layer }} for the predicted class, then for the label.
{% else %}{{ no_maps }}.{% endif %}</p>
<h2>Largest losses</h2>
<p><img src="top_losses.png" alt="the images with the largest loss"></p>
<table><tr><th>image<th>label<th>predicted<th>probability of label<th>loss</tr>
{% for row in top_losses %}<tr><td>{{ row.image }}<td>{{ row.label }}<td>{{ row.predicted }}
<td>{{ '%.4f' | format(row.probability_of_label) }}<td>{{ '%.3f' | format(row.loss) }}</tr>
{% endfor %}</table>
<h2>Confusion</h2>
<p><img src="confusion.png" alt="confusion matrix: rows are labels, columns predictions"></p>
{% for pair in most_confused %}<h3>{{ pair.label }} taken for {{ pair.predicted }}: {{ pair.samples }}
({{ '%.0f' | format(100 * pair.share) }} % of {{ pair.label }})</h3>
<p><img src="{{ pair.picture }}" alt="{{ pair.label }} taken for {{ pair.predicted }}"></p>
{% endfor %}</html>
"""


def page(found: Mapping[str, Any]) -> str:
    """The page `index.html`."""
    template = Environment(autoescape=True).from_string(PAGE)
    shown = {**found, "title": title(found), "accuracy": percent(found["accuracy"])}
    return template.render(shown)


def title(found: Mapping[str, Any]) -> str:
    """Which network on which images."""
    return f"{found['target']}, {found['split']}: {found['backbone']}, {found['strategy']}, seed {found['seed']}"


def print_interpretation(found: Mapping[str, Any], console: Console, most: int = 10) -> None:
    """The first of the largest losses, the confused pairs, and why there are no maps where there are none."""
    console.print()
    console.print(Text(title(found), style="bold"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("image", overflow="fold")
    for heading in ("label", "predicted"):
        table.add_column(heading)
    table.add_column("loss", justify="right")
    for row in found["top_losses"][:most]:
        table.add_row(Text(row["image"]), Text(row["label"]), Text(row["predicted"]), f"{row['loss']:.3g}")
    console.print(table)
    pairs = [f"{pair['label']} as {pair['predicted']} ({pair['samples']})" for pair in found["most_confused"]]
    print_note("Most confused", ", ".join(pairs) or "none: all are classified rightly", "bold", console)
    if found["no_maps"]:
        print_note("No maps", found["no_maps"], "bold yellow", console)
