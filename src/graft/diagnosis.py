"""What a machine has, what is broken on it, and how to mend it; torch is only asked in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from packaging.requirements import Requirement

from graft.data.threaded import num_cores
from graft.records.files import file_lock

Level = Literal["ok", "warning", "problem"]

GIB = 2**30
LEAST_FREE = 0.2 * GIB  # below which a run of a small network may not end
LITTLE_FREE = 5 * GIB  # a few large backbones, or the decoded images of one folder
LITTLE_MEMORY = 2 * GIB
LITTLE_SHARED_MEMORY = 64 * 2**20  # a container's default; workers pass batches through it
PROBE_SECONDS = 300  # torch's first import from a slow disk
GPU_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis."""

    level: Level
    subject: str
    found: str
    mend: str = ""


def diagnose(folders: Mapping[str, Path]) -> Iterator[Finding]:
    """Look at packages, devices, memory and folders.

    Args:
        folders: those that runs write to, by what they are for.
    """
    yield from check_packages("graft")
    probed, failure = ask_torch()
    if probed is None:
        yield torch_failure(failure)
    else:
        yield from check_devices(probed, has_nvidia_gpu(), nvidia_driver())
        yield check_threads(probed["threads"], num_cores())
    yield from check_memory(available_memory(), Path("/dev/shm"))
    for purpose, folder in folders.items():
        yield check_folder(purpose, folder)


def check_packages(package: str) -> list[Finding]:
    """Whether what a package requires is there, in versions that fit it and one another."""
    required = [requirement for requirement in _requirements(package) if _applies(requirement)]
    findings = [finding for one in required if (finding := _unmet(package, one)) is not None]
    for one in required:
        if installed(one.name) is not None:
            others = (other for other in _requirements(one.name) if _applies(other))
            findings += [finding for other in others if (finding := _unmet(one.name, other)) is not None]
    names = ("torch", "torchvision", "pytorch-lightning", "hydra-core")
    versions = ", ".join(f"{name} {installed(name)}" for name in names if installed(name))
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    extras = [extra for extra in ("timm", "peft", "numba") if installed(extra)]
    with_extras = f"; {', '.join(extras)}" if extras else ""
    return findings or [Finding("ok", "packages", f"{python}, {versions}{with_extras}")]


def installed(name: str) -> str | None:
    """The version of a package, None where it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _requirements(package: str) -> list[Requirement]:
    try:
        return [Requirement(text) for text in requires(package) or ()]
    except PackageNotFoundError:
        return []


def _applies(requirement: Requirement) -> bool:
    """Whether a requirement holds on this machine without any extra."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _unmet(package: str, requirement: Requirement) -> Finding | None:
    found = installed(requirement.name)
    if found is not None and requirement.specifier.contains(found, prereleases=True):
        return None
    has = f"{requirement.name} {found} is installed" if found else f"{requirement.name} is not installed"
    wanted = f"{requirement.name}{requirement.specifier}"
    asked = f"{package} {installed(package) or ''}".strip()
    if requirement.name == "torch" and found:  # pip knows which version of the other one goes with this torch
        mend = f'python -m pip install "torch=={found.partition("+")[0]}" --upgrade {package}'
    else:
        mend = f'python -m pip install "{wanted}"'
    return Finding("problem", "packages", f"{asked} needs {wanted}, but {has}", mend)


def ask_torch() -> tuple[dict[str, Any] | None, str]:
    """What `graft.torch_probe` prints, or None and why it did not."""
    command = [sys.executable, "-m", "graft.torch_probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return None, f"no answer within {PROBE_SECONDS} s"
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found, ""
    lines = done.stderr.strip().splitlines()
    return None, lines[-1] if lines else f"it ended with {done.returncode}"


def torch_failure(reason: str) -> Finding:
    """Torch or torchvision cannot be used."""
    torch = installed("torch")
    pinned = f'"torch=={torch.partition("+")[0]}"' if torch else "torch"
    mend = f"they must be a pair: python -m pip install --force-reinstall {pinned} torchvision"
    return Finding("problem", "torch", f"torch and torchvision do not load: {reason}", mend)


def has_nvidia_gpu() -> bool:
    """Whether there is an NVIDIA driver, with or without a torch that can use it."""
    return GPU_DRIVER.exists() or shutil.which("nvidia-smi") is not None


def nvidia_driver() -> str:
    """The version of the NVIDIA driver, an empty text where none is known."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.split("\n")[0].strip() if done.returncode == 0 else ""


def check_devices(probed: Mapping[str, Any], has_gpu: bool, driver: str) -> list[Finding]:
    """Whether the GPUs of the machine can be used.

    Args:
        probed: as `graft.torch_probe.probe` gives it.
        has_gpu: whether there is an NVIDIA driver.
        driver: its version, where known.
    """
    if probed["cuda_available"]:
        return [_check_gpu(device, probed["cuda_architectures"]) for device in probed["devices"]]
    if has_gpu:
        return [_unused_gpu(probed, driver)]
    if probed["mps_available"]:
        return [Finding("ok", "devices", "Apple GPU (trainer=mps)")]
    return [Finding("ok", "devices", "CPU; no GPU found")]


def _check_gpu(device: Mapping[str, Any], architectures: Sequence[str]) -> Finding:
    found = f"{device['name']}, {device['memory'] / GIB:.0f} GiB, compute capability {device['capability']}"
    major, minor = map(int, device["capability"].split("."))
    # Code for 8.0 runs on 8.6 too, but not on 9.0; compute_ code is compiled for any later one.
    runs = any(
        (kind == "sm" and int(number[:-1]) == major and int(number[-1]) <= minor)
        or (kind == "compute" and int(number) <= 10 * major + minor)
        for kind, _, number in (name.rstrip("af").partition("_") for name in architectures)
    )
    if runs:
        return Finding("ok", "devices", found)
    has = ", ".join(architectures)
    mend = "install a build of torch that has it (pytorch.org, Get Started), or trainer=cpu"
    return Finding("problem", "devices", f"{found}: this torch has no code for it, only for {has}", mend)


def _unused_gpu(probed: Mapping[str, Any], driver: str) -> Finding:
    has = f"an NVIDIA GPU with driver {driver}" if driver else "an NVIDIA driver"
    if probed["cuda"] is None:
        mend = "install a build of torch with CUDA (pytorch.org, Get Started)"
        return Finding("warning", "devices", f"there is {has}, but this torch is built without CUDA", mend)
    reason = next((text for text in probed["warnings"] if "driver" in text.lower()), "")
    if "too old" in reason:
        mend = f"update the driver, or install a torch built for an older CUDA than {probed['cuda']}"
        return Finding("problem", "devices", f"{has} is too old for this torch, built for CUDA {probed['cuda']}", mend)
    says = f": {reason.splitlines()[0]}" if reason else ""
    mend = "see that nvidia-smi lists the GPU and that CUDA_VISIBLE_DEVICES does not hide it"
    return Finding("problem", "devices", f"there is {has}, but torch finds no GPU{says}", mend)


def check_threads(threads: int, cores: int) -> Finding:
    """Whether torch would use more threads than there are cores."""
    found = f"{cores} cores, {threads} threads for torch"
    if threads <= cores:
        return Finding("ok", "threads", found)
    return Finding("warning", "threads", f"{found}, which will wait for one another", f"OMP_NUM_THREADS={cores}")


def available_memory() -> int | None:
    """Bytes of memory that are free to be used, None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def check_memory(available: int | None, shared: Path) -> Iterator[Finding]:
    """Memory, and what of it processes can share.

    Args:
        available: bytes, None where unknown.
        shared: where the system shows shared memory.
    """
    if available is not None:
        found = f"{available / GIB:.1f} GiB free"
        if available < LITTLE_MEMORY:
            yield Finding("warning", "memory", found, "end other programs, or lower target.batch_size")
        else:
            yield Finding("ok", "memory", found)
    if shared.is_dir() and (free := shutil.disk_usage(shared).free) < LITTLE_SHARED_MEMORY:
        mend = "num_workers=0, or a larger one: docker run --shm-size=1g"
        yield Finding("warning", "shared memory", f"{free / 2**20:.0f} MiB free at {shared}", mend)


def check_folder(purpose: str, folder: Path) -> Finding:
    """Whether a folder, or the nearest one above it that exists, can be written, locked and linked in, and has room."""
    folder = folder.expanduser().absolute()
    exists = next(path for path in (folder, *folder.parents) if path.exists())
    override = f"another folder: paths.{purpose}=DIR"
    if not exists.is_dir():
        return Finding("problem", purpose, f"{folder}: {exists} is a file", override)
    try:
        _try_folder(exists)
    except OSError as error:
        return Finding("problem", purpose, f"{folder}: {error.strerror or error}", f"make it writable, or {override}")
    usage = shutil.disk_usage(exists)
    found = f"{folder}: {usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free"
    if usage.free < LEAST_FREE:
        return Finding("problem", purpose, found, f"make room, or {override}")
    if usage.free < LITTLE_FREE:
        return Finding("warning", purpose, found, f"make room, or {override}")
    return Finding("ok", purpose, found)


def _try_folder(folder: Path) -> None:
    """Do what runs do in a folder; leaves nothing there."""
    with TemporaryDirectory(dir=folder, prefix=".graft-doctor-") as name:
        file = Path(name) / "file"
        with file.open("wb") as opened:
            opened.write(bytes(2**16))
            os.fsync(opened.fileno())
        with file_lock(Path(name) / "lock", wait=False):
            os.replace(file, Path(name) / "renamed")
        (Path(name) / "link").symlink_to("renamed")
