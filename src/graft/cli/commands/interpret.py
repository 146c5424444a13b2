"""Look at what a finished run gets wrong: the largest losses, the most confused classes, and where the network looks.

  graft interpret outputs/latest
  graft interpret outputs/latest --split val --top 50

Writes interpret/ into the run's folder: index.html with the pictures; interpretation.json; losses.csv with a line for
each image. Beside an image stand Grad-CAM maps (Selvaraju et al., ICCV 2017): where the predicted class, then the class
of its label is seen. Where the run found a temperature, probabilities and losses are calibrated by it.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.cli.arguments import Parser, command_parser, parse
from graft.cli.commands.resume import go_back, started_in
from graft.cli.finished import finished_run, open_run
from graft.errors import UserError
from graft.inference.choices import DEVICES
from graft.records.files import atomic_write_bytes, atomic_write_json
from graft.reports.console import make_console

if TYPE_CHECKING:
    import numpy as np

SCHEMA = 1
FOLDER, FIGURES, LOSSES, PAGE = "interpret", "interpretation.json", "losses.csv", "index.html"


def main(arguments: Sequence[str]) -> int:
    """Interpret a run's network; returns the exit code."""
    options = parse(parser(), arguments)
    if options.top < 1:
        raise UserError(f"--top {options.top}: expected a positive number")
    folder, record = finished_run(options.run)
    output = (options.output.expanduser() if options.output else folder / FOLDER).absolute()
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: not a folder")
    go_back(started_in(folder))
    found = interpret(folder, record, options, output)
    from graft.reports.interpretation import page, print_interpretation

    atomic_write_json(output / FIGURES, found)
    atomic_write_bytes(output / PAGE, page(found).encode())
    print_interpretation(found, make_console())
    print(f"graft: wrote {output / PAGE}")
    return 0


def parser() -> Parser:
    """What the command takes."""
    result = command_parser("interpret")
    option = result.add_argument
    option("run", type=Path, metavar="RUN", help="the folder of a finished run, such as outputs/latest")
    option("--split", choices=("test", "val"), default="test", help="which images; by default test")
    option("--top", type=int, default=24, metavar="N", help="images with the largest loss; by default 24")
    option("--output", type=Path, metavar="DIR", help="where to write; by default interpret in the run's folder")
    option("--device", choices=DEVICES, default="auto", help="auto (the default) takes a GPU where there is one")
    return result


def interpret(folder: Path, record: dict[str, Any], options: Any, output: Path) -> dict[str, Any]:
    """Write the pictures and the table; returns what `interpretation.json` says."""
    from graft.build.assembly import make_domain
    from graft.callbacks.board import confusion_picture
    from graft.inference.interpreting import (
        Viewer,
        confused_examples,
        judge_each,
        map_layer_of,
        names_of_images,
        table_of_losses,
    )
    from graft.inference.trained import choose_device
    from graft.reports.export import csv_text

    domain = make_domain(record["config"]["target"])
    assert domain is not None, "a run has a target"
    device, split = choose_device(options.device), options.split
    trained = open_run(folder, record).to(device)
    judged = judge_each(trained, domain, split, device)
    layer, reason = None, None
    try:
        layer = map_layer_of(trained, domain, split, device)
    except UserError as error:
        reason = str(error)
    viewer = Viewer(trained, domain, split, judged, layer, device)
    rows = table_of_losses(judged, names_of_images(domain, split), trained.class_names)
    atomic_write_bytes(output / LOSSES, csv_text(rows).encode())
    write_picture(output / "confusion.png", confusion_picture(judged.scores["confusion"], trained.class_names))
    write_picture(output / "top_losses.png", viewer.sheet(judged.order[: options.top].tolist()))
    pairs = confused_examples(judged, trained.class_names, num_pairs=5)
    for number, pair in enumerate(pairs, 1):
        pair["picture"] = f"confused_{number}.png"
        write_picture(output / pair["picture"], viewer.sheet(pair.pop("positions")))
    return {
        "schema": SCHEMA,
        "id": record["id"],
        "target": domain.name,
        "backbone": record["backbone"],
        "strategy": record["strategy"],
        "seed": record["seed"],
        "split": split,
        "num_images": len(rows),
        "accuracy": judged.scores["accuracy"],
        "loss": judged.scores["loss"],
        "temperature": trained.temperature,
        "map_layer": layer.name if layer is not None else None,
        "no_maps": reason,
        "classes": list(trained.class_names),
        "confusion": judged.scores["confusion"],
        "most_confused": pairs,
        "top_losses": rows[: options.top],
    }


def write_picture(path: Path, picture: "np.ndarray") -> None:
    """Write a picture uint8 [h, w, 3] as PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "png")
    atomic_write_bytes(path, file.getvalue())
