"""Where the configuration lies, and how Hydra reads it: `source=` and `target=` share the files of `conf/domain`."""

from pathlib import Path

from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult

import graft
from graft.errors import UserError, nearest_path

SHARED = {"source": "domain", "target": "domain"}  # group -> folder with its files
PRIMARY = "config"


class GraftSource(FileConfigSource):
    """A folder of groups in which names that start with `_` are parts of others, not choices."""

    @staticmethod
    def scheme() -> str:
        """The scheme of its entries on the search path."""
        return "graft"

    def load_config(self, config_path: str) -> ConfigResult:
        """The configuration `group/name`."""
        return super().load_config(_in_files(config_path))

    def is_group(self, config_path: str) -> bool:
        """Whether there is such a group."""
        return super().is_group(_in_files(config_path))

    def is_config(self, config_path: str) -> bool:
        """Whether there is such a configuration."""
        return super().is_config(_in_files(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The groups and choices at a path; at the root, groups that share a folder instead of the folder."""
        names = {name for name in super().list(_in_files(config_path), results_filter) if not name.startswith("_")}
        if not config_path:
            shared = {group for group, folder in SHARED.items() if folder in names}
            names = (names - set(SHARED.values()) - {PRIMARY}) | shared
        return sorted(names)


def _in_files(config_path: str) -> str:
    group, slash, rest = config_path.partition("/")
    return SHARED.get(group, group) + slash + rest


def conf_folder() -> Path:
    """The configuration that comes with graft: in the package when it was installed, beside `src` in a checkout."""
    package = Path(graft.__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def search_path(config_dir: Path | None = None) -> ConfigSearchPath:
    """Hydra's search path: its own configuration, then the user's `config_dir`, then that of graft.

    Raises:
        UserError: `config_dir` does not exist.
    """
    Plugins.instance().register(GraftSource)
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    if config_dir is not None:
        path.append("command-line", f"graft://{_existing(config_dir)}")
    path.append("main", f"graft://{conf_folder()}")
    path.append("schema", "structured://")
    return path


def _existing(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"--config-dir {folder}: no such folder{nearest_path(folder)}")
    return folder
