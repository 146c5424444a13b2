"""A project: a folder with a configuration of its own, which `graft` uses when it is started there."""

from pathlib import Path
from typing import Any

import yaml

from graft.errors import UserError, did_you_mean

MARK = "graft.yaml"
KEY = "config_dir"
KEYS = (KEY,)


def project_config_dir() -> Path | None:
    """The configuration of the project in the working folder, as its `graft.yaml` says; None without one.

    Raises:
        UserError: the file says something else, or names a folder that is not there.
    """
    path = Path(MARK)
    if not path.is_file():
        return None
    settings = _read(path)
    for key in settings:
        if key not in KEYS:
            raise UserError(f"{MARK}: {key}: no such key; {did_you_mean(str(key), KEYS)}")
    folder = settings.get(KEY)
    if not isinstance(folder, str):
        raise UserError(f"{MARK}: {KEY}: {folder!r}; expected the folder with your own configuration, such as conf")
    if not Path(folder).expanduser().is_dir():
        raise UserError(f"{MARK}: {KEY}: {folder}: no such folder")
    return Path(folder)


def _read(path: Path) -> dict[Any, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: expected {KEY}: FOLDER")
    return settings
