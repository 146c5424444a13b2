"""Say what this machine has, what is broken, and how to mend it.

Looks at packages, devices, memory, and the folders that runs write to: graft doctor paths.outputs=/data/outputs
"""

from collections.abc import Sequence
from pathlib import Path

from graft.cli.arguments import add_composition, command_parser, parse
from graft.cli.compose import compose, hydra_application
from graft.reports.console import make_console

STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def main(arguments: Sequence[str]) -> int:
    """Print a diagnosis; returns 1 where there is a problem, else 0."""
    parser = command_parser("doctor")
    add_composition(parser)
    options = parse(parser, arguments)
    with hydra_application(options.config_dir) as hydra:
        paths = compose(hydra.config_loader, options.overrides)["paths"]
    from graft.diagnosis import diagnose

    console = make_console()
    problems = 0
    for finding in diagnose({purpose: Path(paths[purpose]) for purpose in ("outputs", "store")}):
        console.print(f"{finding.level:<8}", style=STYLES[finding.level], end=" ")
        console.print(f"{finding.subject}: {finding.found}", markup=False, soft_wrap=True)
        if finding.mend:
            console.print(f"         mend: {finding.mend}", markup=False, soft_wrap=True)
        problems += finding.level == "problem"
    if problems:
        console.print(f"{problems} problem{'s' if problems > 1 else ''} found", style="bold red")
    return 1 if problems else 0
