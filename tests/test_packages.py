"""The locked packages: all that the project asks for, each by its hashes, and their licences listed."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKED = (ROOT / "scripts" / "requirements.txt").read_text(encoding="utf-8")
ENTRIES = [entry for entry in re.split(r"\n(?=\S)", LOCKED.strip()) if not entry.startswith("#")]


def versions() -> dict[str, str]:
    pinned = [re.match(r"([\w.-]+)==([\w.+!]+)", entry) for entry in ENTRIES]
    return {canonicalize_name(found[1]): found[2] for found in pinned if found}


def test_every_locked_package_has_a_version_and_hashes() -> None:
    assert len(versions()) == len(ENTRIES) > 100
    assert [entry.partition("\n")[0] for entry in ENTRIES if "--hash=sha256:" not in entry] == []


def test_what_the_project_asks_for_is_locked_in_a_version_that_it_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [Requirement(text) for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]
    locked = versions()
    assert [str(one) for one in asked if locked.get(canonicalize_name(one.name)) not in one.specifier] == []


def test_the_licences_of_all_locked_packages_are_listed() -> None:
    listed = (ROOT / ".github" / "LICENCES.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([\w.-]+) \| ([\w.+!]+) \|", listed, flags=re.MULTILINE))
    assert {canonicalize_name(name): version for name, version in rows.items() if name != "package"} == versions()
