"""Make a choice of your own from one that is there, to be edited.

graft new strategy mine --from lp_ft; graft new target birds --from image_folder --config-dir my_conf
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from graft.cli.arguments import command_parser, parse
from graft.cli.catalogue import check_free, check_name, find_file
from graft.cli.compose import hydra_application
from graft.cli.project import project_config_dir
from graft.cli.source import SHARED, conf_folder
from graft.errors import UserError
from graft.records.files import atomic_write_bytes


def main(arguments: Sequence[str]) -> int:
    """Copy a configuration under a new name; returns the exit code."""
    parser = command_parser("new")
    parser.add_argument("group", metavar="GROUP", help="as in GROUP=NAME")
    parser.add_argument("name", metavar="NAME", help="its new name")
    parser.add_argument("--from", dest="other", required=True, metavar="OTHER", help="the choice to start from")
    parser.add_argument(
        "--config-dir",
        "-cd",
        type=Path,
        metavar="DIR",
        help="where to write; otherwise into conf of the project, or of graft",
    )
    options = parse(parser, arguments)
    check_name(options.name)
    own: Path | None = options.config_dir.expanduser() if options.config_dir else project_config_dir()
    root = conf_folder() if own is None else own
    with hydra_application(root if root.is_dir() else None) as hydra:
        text = find_file(hydra.config_loader, options.group, options.other).read_text(encoding="utf-8")
    path = root / SHARED.get(options.group, options.group) / f"{options.name}.yaml"
    check_free(path)
    if own is None and not os.access(root, os.W_OK):
        raise UserError(f"{root}: cannot be written; say where with --config-dir DIR")
    atomic_write_bytes(path, renamed(text, options.other, options.name).encode())
    where = f" --config-dir {options.config_dir}" if options.config_dir else ""
    print(f"graft: wrote {path}; edit it, then: graft {options.group}={options.name}{where}")
    return 0


def renamed(text: str, other: str, name: str) -> str:
    """The text with its own name replaced, and marked as derived in the line that describes it.

    >>> renamed("# Both\\nname: lp_ft\\n", "lp_ft", "mine")
    '# Both (from lp_ft)\\nname: mine\\n'
    """
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if re.match(r"#\s*[^@\s]", line)), None)
    if first is not None:
        lines[first] = f"{lines[first]} (from {other})"
    lines = [f"name: {name}" if line == f"name: {other}" else line for line in lines]
    return "\n".join(lines) + "\n"
