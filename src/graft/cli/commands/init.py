"""Make a project: a folder with a configuration of your own, in which graft finds it.

  graft init my_project
  cd my_project; graft experiment=mine

Writes graft.yaml, which names the folder with your configuration; conf/experiment/mine.yaml, an experiment to edit;
README.md, and .gitignore for outputs. Nothing is overwritten. What is in conf comes before graft's own of that name.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from graft.cli.arguments import command_parser, parse
from graft.cli.project import KEY, MARK
from graft.errors import UserError
from graft.records.files import atomic_write_bytes

PROJECT = f"""\
# graft uses the configuration below when it is started in this folder (--config-dir DIR takes another one)
{KEY}: conf
"""

EXPERIMENT = """\
# @package _global_
# An experiment to start from: rendered glyphs to handwritten digits, 10 labels a class
#
# Command: graft experiment=mine
# What there is to choose from: graft ls; graft ls strategy; graft show strategy/lp_ft
defaults:
  - override /source: glyphs
  - override /target: digits
  - override /backbone: cnn
  - override /strategy: fine_tune
name: mine  # folder below outputs
target:
  labels_per_class: 10
trainer:
  max_epochs: 20
"""

README = """\
# {name}

Experiments with graft. Run in this folder:

    graft experiment=mine                         # conf/experiment/mine.yaml, with its baseline from scratch
    graft -m experiment=mine seed=0,1,2           # over seeds, with a table at the end
    graft new strategy careful --from lp_ft       # a strategy of your own in conf/strategy; then strategy=careful
    graft tensorboard                             # the curves of the newest run
    graft report outputs                          # tables of all runs

graft.yaml says where your configuration lies. Results go to outputs/.
"""

IGNORED = "outputs/\n"


def main(arguments: Sequence[str]) -> int:
    """Make a project; returns the exit code."""
    parser = command_parser("init")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to make it; . is this folder")
    folder: Path = parse(parser, arguments).folder.expanduser()
    files = {
        MARK: PROJECT,
        "conf/experiment/mine.yaml": EXPERIMENT,
        "README.md": README.format(name=folder.absolute().resolve().name),
        ".gitignore": IGNORED,
    }
    check_free(folder, list(files))
    for name, text in files.items():
        atomic_write_bytes(folder / name, text.encode())
        print(f"graft: wrote {folder / name}")
    enter = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))}; "
    print(f"graft: try: {enter}graft experiment=mine")
    return 0


def check_free(folder: Path, names: Sequence[str]) -> None:
    """Refuse to overwrite a file.

    Raises:
        UserError: it is a file, or one of the files is there.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file; expected the name of a folder")
    there = [name for name in names if (folder / name).exists()]
    if there:
        raise UserError(f"{folder}: holds {', '.join(there)} already, and nothing is overwritten")
