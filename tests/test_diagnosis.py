"""`graft doctor`: what is broken is named, with the mend; what is well is not."""

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from graft import diagnosis
from graft.diagnosis import check_devices, check_folder, check_memory, check_packages, check_threads

Usage = namedtuple("Usage", "total used free")
CPU = {
    "cuda": None,
    "cuda_available": False,
    "cuda_architectures": [],
    "devices": [],
    "mps_available": False,
    "threads": 2,
    "warnings": [],
}
OLD_DRIVER = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)."


def write_package(folder: Path, name: str, version: str, *requirements: str, code: str = "") -> None:
    """A package as pip leaves it."""
    metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata.write_text("\n".join([*lines, *(f"Requires-Dist: {requirement}" for requirement in requirements)]) + "\n")
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)


def gpu(capability: str, *architectures: str) -> dict[str, Any]:
    device = {"name": "Some GPU", "capability": capability, "memory": 80 * 2**30}
    return CPU | {"cuda": "13.0", "cuda_available": True, "devices": [device], "cuda_architectures": architectures}


def test_the_packages_that_the_tests_run_with_fit() -> None:
    (finding,) = check_packages("graft")
    assert finding.level == "ok"
    assert "torchvision" in finding.found


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_mismatched_pair_is_named_with_what_mends_it(packages: Path) -> None:
    write_package(packages, "mine", "1.0", "pair>=2", 'extra_only>=1; extra == "all"')
    write_package(packages, "pair", "2.1", "torch==0.1.0")
    (finding,) = check_packages("mine")
    assert finding.level == "problem"
    assert finding.found.startswith("pair 2.1 needs torch==0.1.0, but torch ")
    assert "pip install" in finding.mend
    assert "--upgrade pair" in finding.mend


def test_missing_and_old_packages_are_named(packages: Path) -> None:
    write_package(packages, "mine", "1.0", "nowhere_to_be_found>=3", "old>=2")
    write_package(packages, "old", "1.9")
    missing, old = check_packages("mine")
    assert missing.found == "mine 1.0 needs nowhere_to_be_found>=3, but nowhere_to_be_found is not installed"
    assert old.found == "mine 1.0 needs old>=2, but old 1.9 is installed"
    assert old.mend == 'python -m pip install "old>=2"'


@pytest.mark.parametrize(
    ("probed", "has_gpu", "level", "says"),
    [
        (CPU, False, "ok", "no GPU"),
        (CPU | {"mps_available": True}, False, "ok", "Apple"),
        (CPU, True, "warning", "without CUDA"),
        (CPU | {"cuda": "13.0", "warnings": [OLD_DRIVER]}, True, "problem", "470.1 is too old"),
        (CPU | {"cuda": "13.0"}, True, "problem", "finds no GPU"),
        (gpu("8.6", "sm_80", "sm_90"), True, "ok", "80 GiB"),
        (gpu("9.0", "sm_80", "compute_80"), True, "ok", "9.0"),
        (gpu("9.0", "sm_90a"), True, "ok", "9.0"),
        (gpu("7.0", "sm_80", "sm_90"), True, "problem", "no code for it"),
        (gpu("8.0", "sm_86"), True, "problem", "no code for it"),
    ],
)
def test_devices(probed: dict[str, Any], has_gpu: bool, level: str, says: str) -> None:
    (finding,) = check_devices(probed, has_gpu, "470.1")
    assert finding.level == level
    assert says in finding.found
    assert bool(finding.mend) == (level != "ok")


def test_more_threads_than_cores_are_a_warning() -> None:
    assert check_threads(2, 2).level == "ok"
    assert check_threads(16, 2).mend == "OMP_NUM_THREADS=2"


def test_little_memory_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 * 2**20, 2**20, 2**20))
    memory, shared = check_memory(2**30, tmp_path)
    assert (memory.level, shared.level) == ("warning", "warning")
    assert "shm-size" in shared.mend
    assert [finding.level for finding in check_memory(2**35, tmp_path / "none")] == ["ok"]
    assert list(check_memory(None, tmp_path / "none")) == []


def test_a_folder_that_does_not_exist_is_tried_where_it_would_be_made(tmp_path: Path) -> None:
    assert check_folder("outputs", tmp_path / "a" / "b").level in ("ok", "warning")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finding = check_folder("outputs", tmp_path / "file" / "outputs")
    assert finding.level == "problem"
    assert "is a file" in finding.found
    assert "paths.outputs=DIR" in finding.mend


@pytest.mark.parametrize(("number", "says"), [(errno.EACCES, "Permission denied"), (errno.ENOSPC, "No space left")])
def test_folders_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(diagnosis, "_try_folder", fail)
    finding = check_folder("store", tmp_path)
    assert finding.level == "problem"
    assert says in finding.found


@pytest.mark.parametrize(("free", "level"), [(10 * 2**20, "problem"), (2**30, "warning"), (2**40, "ok")])
def test_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**41, 2**41 - free, free))
    assert check_folder("outputs", tmp_path).level == level


def test_the_program_names_what_is_broken_and_fails(tmp_path: Path) -> None:
    """A torchvision for another torch, which does not load, and a file where results should go."""
    packages = tmp_path / "packages"
    write_package(packages, "torch", "2.14.1", code="class cuda:\n    is_available = staticmethod(lambda: False)")
    code = "raise RuntimeError('operator torchvision::nms does not exist')"
    write_package(packages, "torchvision", "0.28.0", "torch==2.13.0", code=code)
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "graft", "doctor", "paths.outputs=file/outputs"]
    paths = os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1, done.stderr
    assert "torchvision 0.28.0 needs torch==2.13.0, but torch 2.14.1 is installed" in done.stdout
    assert 'mend: python -m pip install "torch==2.14.1" --upgrade torchvision' in done.stdout
    assert "do not load: RuntimeError: operator torchvision::nms does not exist" in done.stdout
    assert "outputs: " in done.stdout
    assert "is a file" in done.stdout
    assert "4 problems found" in done.stdout


def test_torch_is_probed_in_a_process_of_its_own() -> None:
    probed, failure = diagnosis.ask_torch()
    assert failure == ""
    assert probed is not None
    assert probed.keys() == CPU.keys()
    assert probed["threads"] >= 1
