"""Export the network of a finished run for other programs, and check that the file computes the same.

  graft export outputs/latest --format onnx
  graft export outputs/latest --format torch_export --output classifier.pt2

The file takes batches of any size of pixels, uint8 [n, c, height, width], scales and normalises them itself, and gives
logits and probabilities (calibrated where the run found a temperature); safetensors holds the weights alone. The JSON
file beside it says how an image is resized and cropped before, and what the classes are; MODEL_CARD.md says where the
network comes from and what it is good for. torchscript is deprecated by PyTorch; torch_export takes its place.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from graft.cli.arguments import command_parser, parse
from graft.cli.finished import finished_run, open_run
from graft.errors import UserError
from graft.inference.choices import SUFFIXES
from graft.records.files import atomic_write_bytes, atomic_write_json

MODEL_CARD = "MODEL_CARD.md"


def main(arguments: Sequence[str]) -> int:
    """Export a run's network; returns the exit code."""
    parser = command_parser("export")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run, such as outputs/latest")
    parser.add_argument("--format", choices=SUFFIXES, required=True, help="what kind of file")
    parser.add_argument("--output", type=Path, metavar="FILE", help="by default export/model.* in the run's folder")
    options = parse(parser, arguments)
    folder, record = finished_run(options.run)
    suffix = SUFFIXES[options.format]
    path: Path = options.output.expanduser() if options.output else folder / "export" / f"model{suffix}"
    if path.is_dir() or path.suffix != suffix:
        raise UserError(f"--output {path}: expected the name of a file that ends in {suffix}")
    from graft.inference.exporting import TOLERANCE, export
    from graft.reports.card import MARK, description, model_card

    trained = open_run(folder, record)
    if options.format == "torchscript":
        print("graft: PyTorch has deprecated TorchScript; torch_export takes its place", file=sys.stderr)
    difference = export(trained, options.format, path)
    beside = path.with_suffix(".json")
    described = description(record, trained.preprocessing.as_dict(), trained.temperature, options.format, path.name)
    described["largest_difference"] = {"logits": difference.logits, "probabilities": difference.probabilities}
    atomic_write_json(beside, described)
    print(f"graft: wrote {path} ({path.stat().st_size / 2**20:.1f} MiB)")
    print(
        f"graft: checked on batches of several sizes: logits differ by {difference.logits:.2g} of the largest, "
        f"probabilities by {difference.probabilities:.2g} at most ({TOLERANCE:g} is allowed)"
    )
    print(f"graft: wrote {beside}")
    card = path.with_name(MODEL_CARD)
    if card.exists() and MARK not in card.read_text(encoding="utf-8", errors="replace"):
        print(f"graft: {card} is not one that graft wrote; left as it is", file=sys.stderr)
    else:
        atomic_write_bytes(card, model_card(record, described).encode())
        print(f"graft: wrote {card}")
    return 0
