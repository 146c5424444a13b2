"""Where the configuration lies, and how Hydra reads it: `source=` and `target=` share the files of `conf/domain`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

import graft
from graft.cli.project import project_config_dir
from graft.errors import UserError, nearest_path

SHARED = {"source": "domain", "target": "domain"}  # group -> folder with its files
PRIMARY = "config"
SEVERAL = "_several"  # the choice that several domains as one begin with
IMAGES = "_base"  # what has the augmentation of several of which the first is not found here


class GraftSource(FileConfigSource):
    """A folder of groups in which names that start with `_` are parts of others, not choices."""

    @staticmethod
    def scheme() -> str:
        """The scheme of its entries on the search path."""
        return "graft"

    def load_config(self, config_path: str) -> ConfigResult:
        """The configuration `group/name`; for names joined by `+`, one of several domains, each under its own name."""
        path = _in_files(config_path)
        if (joined := joined_domains(config_path)) is None:
            return super().load_config(path)
        folder = path.partition("/")[0]
        result = super().load_config(f"{folder}/{SEVERAL}")
        augmentation = self._augmentation(folder, joined[0]) or self._augmentation(folder, IMAGES)
        result.config = OmegaConf.create(several_config(joined) | {"augmentation": augmentation})
        return result

    def _augmentation(self, folder: str, name: str) -> dict[str, Any]:
        """What a domain's file and those it builds on say of augmentation; {} where there is none, or no such file."""
        if not super().is_config(f"{folder}/{name}"):
            return {}
        content = OmegaConf.to_container(super().load_config(f"{folder}/{name}").config)
        assert isinstance(content, dict)
        result: dict[str, Any] = {}
        for base in content.get("defaults", []):
            found = content.get("augmentation", {}) if base == "_self_" else self._augmentation(folder, str(base))
            result |= found or {}
        return result

    def is_group(self, config_path: str) -> bool:
        """Whether there is such a group."""
        return super().is_group(_in_files(config_path))

    def is_config(self, config_path: str) -> bool:
        """Whether there is such a configuration."""
        path = _in_files(config_path)
        if joined_domains(config_path) is not None:
            path = path.partition("/")[0] + f"/{SEVERAL}"
        return super().is_config(path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """The groups and choices at a path; at the root, groups that share a folder instead of the folder."""
        names = {name for name in super().list(_in_files(config_path), results_filter) if not name.startswith("_")}
        if not config_path:
            shared = {group for group, folder in SHARED.items() if folder in names}
            names = (names - set(SHARED.values()) - {PRIMARY}) | shared
        return sorted(names)


def joined_domains(config_path: str) -> list[str] | None:
    """The domains that a choice joins: `source/glyphs+usps`; None where it is a single one, or of another group."""
    group, _, name = config_path.partition("/")
    return name.split("+") if group in SHARED and "+" in name else None


def several_config(names: Sequence[str]) -> dict[str, Any]:
    """The configuration of several domains as one; of a name that comes again, the parts are called name_2 and so on.

    Batches are the whole's: what a part says of them is what the whole does.
    """
    counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
    parts = [name if count == 1 else f"{name}_{count}" for name, count in zip(names, counts, strict=True)]
    shared = {key: f"${{...{key}}}" for key in ("batch_size", "balanced", "num_workers", "augmentation")}
    choices = [{f"/source@parts.{part}": name} for part, name in zip(parts, names, strict=True)]
    return {
        "defaults": [SEVERAL, *choices, "_self_"],
        "name": "+".join(parts),
        "parts": {part: dict(shared) for part in parts},
    }


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

    Where no `config_dir` is given, it is that of the project in the working folder, if there is one.

    Raises:
        UserError: `config_dir` does not exist, or the project cannot be used.
    """
    config_dir = project_config_dir() if config_dir is None else config_dir
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
