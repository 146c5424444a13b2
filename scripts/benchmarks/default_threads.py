"""graft with as many threads as torch takes by itself, which spin while they wait, as plain Hydra and Lightning do."""

import sys

import torch  # noqa: F401 - before graft asks for threads that sleep

import graft.threads
from graft.cli.main import main

graft.threads.FLOP_PER_THREAD = 1.0  # operations: as many threads as there are pay for any network

if __name__ == "__main__":
    sys.exit(main())
