"""Finished runs, as the commands that use one take them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.cli.folders import SWEEP
from graft.errors import UserError, nearest_path
from graft.records.record import RECORD, load_record
from graft.reports.notes import reason

if TYPE_CHECKING:
    from graft.inference.trained import Trained


def finished_run(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a finished run, which a link may lead to, and its record.

    Raises:
        UserError: it is not there, holds no run or several, or its run has not ended well.
    """
    folder = folder.expanduser().resolve()
    if folder.is_file() and folder.name == RECORD:
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder{nearest_path(folder)}")
    if not (folder / RECORD).is_file():
        inside = sorted(path.parent for path in folder.glob(f"*/{RECORD}"))
        if inside:
            what = "a sweep" if (folder / SWEEP).exists() else "a folder with runs"
            raise UserError(f"{folder}: {what}; expected the folder of one run, such as {inside[0]}")
        raise UserError(f"{folder}: not the folder of a run; expected {RECORD} in it")
    record = load_record(folder)
    if record["status"] == "failed":
        raise UserError(f"{folder}: its run failed; graft resume {folder} tries it again")
    if record["status"] == "pruned":
        raise UserError(f"{folder}: its run was {reason(record)}, and left no network")
    if record["status"] != "done":
        raise UserError(f"{folder}: its run has not ended; graft resume {folder} goes on with it")
    return folder, record


def open_run(folder: Path, record: dict[str, Any]) -> "Trained":
    """The network of a finished run with all that its use needs.

    Raises:
        UserError: its weights are not there, or damaged.
    """
    from graft.build.assembly import build_blueprint
    from graft.inference.trained import open_trained

    return open_trained(build_blueprint(record["config"]), folder, record)
