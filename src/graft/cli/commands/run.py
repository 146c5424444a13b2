"""Run one experiment, or with -m every combination of several values."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra._internal.hydra import Hydra

from graft.cli.arguments import Parser, add_composition, parse
from graft.cli.compose import compose, compose_sweep, hydra_application, refuse, refuse_jobs
from graft.cli.folders import claimed, is_interrupted_run, point_latest
from graft.cli.help import program_help
from graft.cli.jobs import SingleJob, check, discard_unless_begun, resumable
from graft.cli.overrides import requote
from graft.cli.source import PRIMARY
from graft.cli.sweeps import begin_sweep, end_sweep, run_launch
from graft.records.record import run_identity
from graft.reports.console import make_console


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; returns the exit code."""
    if "--version" in arguments:
        from graft import __version__

        print(f"graft {__version__}")
        return 0
    options = parse(parser(), arguments)
    with hydra_application(options.config_dir) as hydra:
        if options.help:
            print(program_help(hydra.config_loader))
        elif options.shell_completion:
            complete(hydra, options.overrides)
        elif options.cfg:
            overrides = requote(hydra.config_loader, options.overrides)
            compose(hydra.config_loader, overrides)
            hydra.show_cfg(PRIMARY, overrides, options.cfg, options.package, options.resolve)
        elif options.info:
            hydra.show_info(options.info, PRIMARY, requote(hydra.config_loader, options.overrides))
        elif options.multirun:
            return multirun(hydra, options.overrides, options.config_dir)
        else:
            run(hydra, options.overrides)
    return 0


def parser() -> Parser:
    """The options of a run: those of Hydra that make sense here."""
    result = Parser(prog="graft", add_help=False)
    add_composition(result)
    flag = result.add_argument
    flag("--help", "-h", action="store_true", help="this text")
    flag("--multirun", "-m", action="store_true", help="run every combination of the values given")
    flag("--cfg", "-c", choices=("job", "hydra", "all"), help="show the configuration instead of running it")
    flag("--resolve", action="store_true", help="with --cfg: interpolations resolved")
    flag("--package", "-p", help="with --cfg: that part alone")
    flag("--info", "-i", nargs="?", const="all", help="what Hydra knows: all, defaults, defaults-tree, plugins, ...")
    flag("--shell-completion", "-sc", action="store_true", help='eval "$(graft -sc install=bash)", or zsh, or fish')
    return result


def run(hydra: Hydra, overrides: Sequence[str]) -> None:
    """One run, in a new folder or in that of the same run when it was interrupted."""
    config = compose(hydra.config_loader, overrides)
    refuse([f"{text}: is a setting of a sweep; add -m" for text in overrides if text.startswith("sweep.")])
    refuse(check(config))
    from graft.build.assembly import experiment_name
    from graft.reports.terminal import print_run

    outputs = Path(config["paths"]["outputs"]).expanduser()
    parent = outputs / experiment_name(config)
    with claimed(parent, run_identity(config), "", is_interrupted_run) as folder:
        if is_interrupted_run(folder):
            print(f"graft: continuing the interrupted run in {folder} (remove it to begin anew)")
        with latest(outputs, folder):
            where = requote(hydra.config_loader, [f"hydra.run.dir={folder}"])
            job = SingleJob()
            with resumable(folder):
                hydra.run(PRIMARY, job, [*requote(hydra.config_loader, overrides), *where])
            print_run(job.result(), folder, make_console())


@contextmanager
def latest(outputs: Path, folder: Path) -> Iterator[None]:
    """Link `outputs/latest` to the folder, and back where nothing began in it."""
    before = point_latest(outputs, folder)
    try:
        yield
    finally:
        if discard_unless_begun(folder):
            point_latest(outputs, before)


def multirun(hydra: Hydra, overrides: Sequence[str], config_dir: Path | None) -> int:
    """All jobs of a sweep, each checked before the first begins."""
    sweep = compose_sweep(hydra.config_loader, overrides)
    refuse_jobs([check(config) for config in sweep.configs], sweep.checked)
    with begin_sweep(sweep, config_dir) as (folder, launch):
        run_launch(hydra, folder, launch)
        return end_sweep(folder)


def complete(hydra: Hydra, overrides: list[str]) -> None:
    """Answer the shell, to which the words after a command are overrides like any others."""
    from graft.cli.main import command_names

    words = os.environ.get("COMP_LINE", "").split(" ")
    if any(word.startswith("query=") for word in overrides) and len(words) > 1:
        if len(words) == 2 and "=" not in words[1]:
            print(" ".join(name for name in command_names() if name.startswith(words[1])))
        elif words[1] in command_names():
            os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
    hydra.shell_completion(PRIMARY, overrides)
    sys.stdout.flush()
