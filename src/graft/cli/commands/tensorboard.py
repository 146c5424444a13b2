"""Open TensorBoard on a run, a sweep, or a folder that holds them.

  graft tensorboard
  graft tensorboard outputs --port 6007

Without DIR it shows outputs/latest. The jobs of a sweep are named by what sets them apart. Ctrl-C ends it.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from graft.cli.arguments import command_parser, parse
from graft.cli.jobs import place_of
from graft.errors import UserError, nearest_path

LATEST = Path("outputs", "latest")
EVENTS = "*tfevents*"


def main(arguments: Sequence[str]) -> int:
    """Become TensorBoard, which Ctrl-C ends."""
    parser = command_parser("tensorboard")
    parser.add_argument("folder", type=Path, nargs="?", default=LATEST, metavar="DIR", help="by default outputs/latest")
    parser.add_argument("--port", type=int, help="where it listens; by default 6006, or the next that is free")
    parser.add_argument("--host", default="localhost", help="address it listens at; by default localhost")
    options = parse(parser, arguments)
    folder = log_folder(options.folder)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", options.host]
    if options.port is not None:
        command += ["--port", str(options.port)]
    print(f"graft: TensorBoard on {folder}; Ctrl-C ends it", flush=True)
    os.execv(sys.executable, command)  # signals reach TensorBoard itself, and no second process is left behind


def log_folder(folder: Path) -> Path:
    """The folder under which TensorBoard finds the event files of what lies in `folder`, under the shortest names.

    Raises:
        UserError: there is no such folder, or there are no event files in it.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        hint = "; run an experiment first, or say which folder" if folder == LATEST else nearest_path(folder)
        raise UserError(f"{folder}: no such folder{hint}")
    folder = folder.resolve()
    place = place_of(folder)
    for inside in (place.folder / "tensorboard" / place.job, folder):
        if inside.is_dir() and next(inside.rglob(EVENTS), None) is not None:
            return inside
    raise UserError(f"{folder}: no event files of TensorBoard in it; were its runs made with logger=tensorboard?")
