"""The program `graft`: finds the command, runs it, and turns errors into a line each."""

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from pkgutil import iter_modules

from graft.cli import commands
from graft.cli.garbage import put_off_collections
from graft.errors import UserError, of_file, storage_error
from graft.preemption import EXIT_CODE, PreemptedError, listening

DEFAULT = "run"
RESUMABLE = (DEFAULT, "resume", "rank")  # commands that go on where SIGTERM ended them


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, or an experiment; returns the exit code, 0 on success alone.

    1 is an error, 130 Ctrl-C, and 75 (`preemption.EXIT_CODE`) SIGTERM of what can be gone on with.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    put_off_collections()
    logging.raiseExceptions = debug  # a reader that has seen enough of our output is no news
    # Before torch is loaded: threads that wait for each other shall sleep, not spin. Where other processes want the
    # cores too, spinning makes small networks ten times as slow.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if one_of_several():
        from graft.processes import together

        return together(partial(run, words, debug))
    return run(words, debug)


def one_of_several() -> bool:
    """Whether torchrun or srun started this program as several processes."""
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1
    return by_torchrun or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def run(words: list[str], debug: bool) -> int:
    """Run a command; its errors are told."""
    name = words.pop(0) if words and words[0] in command_names() else DEFAULT
    try:
        with listening() if name in RESUMABLE else nullcontext():
            return int(import_module(f"graft.cli.commands.{name}").main(words))
    except KeyboardInterrupt as interrupt:
        preempted = isinstance(interrupt, PreemptedError)
        what = "asked to end by SIGTERM" if preempted else "interrupted"
        print("; ".join([f"graft: {what}", *map(str, interrupt.args)]), file=sys.stderr)
        return EXIT_CODE if preempted else 130
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            explain(error)
        return 1


def command_names() -> list[str]:
    """Every command: a module of `graft.cli.commands` each."""
    return sorted(module.name for module in iter_modules(commands.__path__))


def explain(error: Exception) -> None:
    """Say what went wrong, a line for each error."""
    not_written = storage_error(error)
    if isinstance(error, UserError):
        lines = str(error).splitlines()
    elif not_written is not None:
        lines = [of_file(not_written)]
    else:
        lines = [_in_a_line(error), "--debug shows the traceback"]
    for line in lines:
        print(f"graft: {line}", file=sys.stderr)


def _in_a_line(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
