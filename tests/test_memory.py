"""What a process frees is kept for its next step, where the C library lets itself be told."""

import os
import platform
import subprocess
import sys

import pytest

NUM_TENSORS = 36  # of as many MiB: more than glibc keeps of its own accord
PAGES = NUM_TENSORS * NUM_TENSORS * 2**20 // os.sysconf("SC_PAGE_SIZE")
CODE = """
import resource
import torch
from graft.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    activations = [torch.ones({num_tensors}, 2**20 // 4) for _ in range({num_tensors})]
    activations.clear()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if {keep}:
    keep_freed_memory()
faults()
print(min(faults() for _ in range(3)))
"""
ON_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone can be told")


def page_faults(keep: bool, **environment: str) -> int:
    """Pages that the kernel had to find for large tensors, where as many were freed just before."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    result = subprocess.run(
        [sys.executable, "-c", CODE.format(keep=keep, num_tensors=NUM_TENSORS)],
        env=own | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return int(result.stdout)


@ON_GLIBC
def test_what_was_freed_serves_the_next_tensor():
    assert page_faults(keep=False) >= PAGES
    assert page_faults(keep=True) < PAGES / 10


@ON_GLIBC
def test_settings_of_ones_own_are_left_alone():
    assert page_faults(keep=True, MALLOC_TRIM_THRESHOLD_="131072") >= PAGES
