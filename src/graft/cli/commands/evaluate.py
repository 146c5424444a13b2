"""Score the network of a finished run on its own target's test images, or on other data of the same classes.

  graft evaluate outputs/latest
  graft evaluate outputs/latest target.domain=webcam
  graft evaluate outputs/latest target=image_folder target.path=~/new_photos --split all

target=NAME chooses other data as for a run, and a path begins in the folder in which you are. Values alone, such as
target.domain, change the run's own target, whose paths begin where the run was started, unless target.path is given.
Writes evaluation.json into a new folder of outputs/evaluate.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graft.cli.arguments import add_composition, command_parser, parse
from graft.cli.commands.resume import go_back, started_in
from graft.cli.compose import hydra_application, refuse
from graft.cli.finished import finished_run, open_run
from graft.cli.folders import new_folder
from graft.cli.retarget import names_a_place, target_config
from graft.inference.choices import DEVICES, SPLITS
from graft.records.files import atomic_write_json
from graft.records.hashing import content_hash
from graft.records.record import environment
from graft.reports.console import make_console

SCHEMA = 1
EVALUATION = "evaluation.json"


def main(arguments: Sequence[str]) -> int:
    """Score a run's network; returns the exit code."""
    parser = command_parser("evaluate")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run, such as outputs/latest")
    add_composition(parser)
    parser.add_argument("--split", choices=SPLITS, default="test", help="which samples; by default test")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto takes a GPU where there is one")
    options = parse(parser, arguments)
    folder, record = finished_run(options.run)
    with hydra_application(options.config_dir) as hydra:
        target = target_config(hydra.config_loader, folder, record, options.overrides)
        stay = names_a_place(hydra.config_loader, options.overrides)
    if not stay:
        go_back(started_in(folder))
    from graft.build.validation import validate_target
    from graft.reports.evaluation import print_evaluation

    refuse(validate_target(target))
    evaluation = evaluate(folder, record, target, options.split, options.device)
    evaluation["overrides"] = options.overrides
    where = new_folder(outputs_of(folder, record) / "evaluate", content_hash([record["id"], target, options.split])[:8])
    atomic_write_json(where / EVALUATION, evaluation)
    console = make_console()
    print_evaluation(evaluation, record, console)
    console.print(str(where), style="dim", soft_wrap=True)
    return 0


def outputs_of(folder: Path, record: dict[str, Any]) -> Path:
    """Where the run's program writes, from where the run was started."""
    outputs = Path(record["config"]["paths"]["outputs"]).expanduser()
    return Path(started_in(folder) or "") / outputs


def evaluate(folder: Path, record: dict[str, Any], target: dict[str, Any], split: str, device: str) -> dict[str, Any]:
    """What `evaluation.json` says."""
    from graft.build.assembly import make_domain
    from graft.inference.judging import judge
    from graft.inference.trained import choose_device

    domain = make_domain(target)
    assert domain is not None, "validation refuses target=none"
    where = choose_device(device)
    trained = open_run(folder, record)
    found = judge(trained, domain, split, where)
    return {
        "schema": SCHEMA,
        "run": str(folder),
        "id": record["id"],
        "target": domain.name,
        "split": split,
        "classes": list(domain.class_names),
        "temperature": trained.temperature,
        **found,
        "target_config": target,
        "target_data": domain.fingerprint,
        "same_data_as_in_run": domain.fingerprint == record["fingerprints"]["target_data"],
        "device": str(where),
        "environment": environment(),
    }
