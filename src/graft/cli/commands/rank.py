"""Say which backbones and sources will transfer best to a target, before anything is fine-tuned.

Takes the choices and values of runs, several of a key with commas between them; every combination is a candidate:

  graft rank source=glyphs,mnist backbone=cnn,resnet20 target=usps

Candidates that are no combinations are given one by one, each with all that sets it apart:

  graft rank target=image_folder target.path=~/flowers \\
    --candidate "backbone=mobilenet_v2 backbone.weights=DEFAULT" \\
    --candidate "backbone=resnet50 backbone.weights=resnet50.pth"

Weights come from where a run would take them: a source is pretrained on unless the store has its backbone, and later
runs take that one. With --runs, the scores are compared with the accuracies of the same candidates' finished runs.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader

from graft.cli.arguments import add_composition, command_parser, parse
from graft.cli.catalogue import choices
from graft.cli.compose import compose_sweep, group_config, hydra_application, refuse, refuse_jobs
from graft.cli.folders import RANKING, claimed, is_interrupted_ranking
from graft.cli.jobs import check, interrupts, log_to_terminal
from graft.errors import UserError, did_you_mean
from graft.records.files import atomic_write_bytes, atomic_write_json
from graft.records.hashing import content_hash
from graft.records.record import environment, find_records, run_identity
from graft.reports.console import make_console

SCHEMA = 1
TABLE = "ranking.csv"
SORTED_BY = "logme"


@dataclass(frozen=True)
class Candidates:
    """What is ranked."""

    jobs: list[list[str]]  # the overrides of each
    configs: list[dict[str, Any]]  # plain and resolved


def main(arguments: Sequence[str]) -> int:
    """Rank what the command line asks for; returns the exit code."""
    parser = command_parser("rank")
    add_composition(parser)
    option = parser.add_argument
    option("--candidate", action="append", default=[], metavar="'KEY=VALUE ...'", help="one more candidate")
    option("--scores", metavar="NAME,...", help="which scores; by default all that graft ls score names")
    option("--by", metavar="NAME", help=f"the score to sort by; by default {SORTED_BY}, or the first one")
    option("--runs", action="append", default=[], type=Path, metavar="DIR", help="a folder with runs to compare with")
    options = parse(parser, arguments)
    with hydra_application(options.config_dir) as hydra:
        candidates = find_candidates(hydra.config_loader, options.overrides, options.candidate)
        scores = find_scores(hydra.config_loader, options.scores)
    by = chosen("--by", options.by, scores) if options.by else SORTED_BY if SORTED_BY in scores else next(iter(scores))
    refuse_jobs([check(config) for config in candidates.configs], candidates.jobs)
    refuse(same_target(candidates.configs))
    from graft.build.validation import validate_scores
    from graft.reports.ranking import print_ranking, ranking_csv

    refuse(validate_scores(scores))
    records = [record for _, record in find_records(options.runs)] if options.runs else []
    log_to_terminal()
    outputs = Path(candidates.configs[0]["paths"]["outputs"]).expanduser()
    with claimed(outputs / "rank", identity(candidates, scores), "", is_interrupted_ranking) as folder:
        ranking = rank(candidates, scores, by, records, folder)
        atomic_write_bytes(folder / TABLE, ranking_csv(ranking).encode())
    console = make_console()
    print_ranking(ranking, console)
    if not any(row["fine_tuned"] for row in ranking["candidates"]):
        for line in how_to_compare(options.overrides, options.candidate, options.runs or [outputs]):
            console.print(line, soft_wrap=True, markup=False)
    console.print(str(folder), style="dim", soft_wrap=True)
    return 0


def find_candidates(loader: ConfigLoader, overrides: Sequence[str], alternatives: Sequence[str]) -> Candidates:
    """Every combination of the overrides' values, with each alternative where there are any.

    Raises:
        UserError: with a line for each override that cannot be used.
    """
    jobs: list[list[str]] = []
    configs: list[dict[str, Any]] = []
    errors: list[str] = []
    for words in alternatives or [""]:
        try:
            sweep = compose_sweep(loader, [*overrides, *split(words)])
        except UserError as error:
            errors += str(error).splitlines()
            continue
        if sweep.jobs is None:
            raise UserError("rank: takes the values that are listed; leave hydra/sweeper out")
        jobs += sweep.jobs
        configs += sweep.configs
    refuse(errors)
    return Candidates(jobs, configs)


def split(words: str) -> list[str]:
    """The overrides in one word of the command line.

    Raises:
        UserError: a quotation mark has no partner.
    """
    try:
        return shlex.split(words)
    except ValueError as error:
        raise UserError(f"--candidate {words!r}: {str(error).lower()}") from error


def find_scores(loader: ConfigLoader, names: str | None) -> dict[str, dict[str, Any]]:
    """The plain configurations of the scores, by name.

    Raises:
        UserError: there is no score of that name.
    """
    known = choices(loader, "score")
    wanted = known if names is None else [chosen("--scores", name.strip(), known) for name in names.split(",")]
    return {name: group_config(loader, "score", name) for name in wanted}


def chosen(option: str, name: str, known: Sequence[str] | dict[str, Any]) -> str:
    """The name itself.

    Raises:
        UserError: it is not known.
    """
    if name not in known:
        raise UserError(f"{option} {name}: no such score; {did_you_mean(name, known)}")
    return name


def same_target(configs: Sequence[dict[str, Any]]) -> list[str]:
    """An error where candidates differ in the target that they are ranked for."""
    names = list(dict.fromkeys(str(config["target"].get("name")) for config in configs))
    if all(config["target"] == configs[0]["target"] for config in configs):
        return []
    return [
        f"target: differs between candidates ({', '.join(names)}); a ranking is for one target and one label budget"
    ]


def identity(candidates: Candidates, scores: dict[str, Any]) -> str:
    """Eight digits that two rankings share when they compute the same."""
    return content_hash([scores, *(run_identity(config) for config in candidates.configs)])[:8]


def rank(
    candidates: Candidates, scores: dict[str, Any], by: str, records: Sequence[dict[str, Any]], folder: Path
) -> dict[str, Any]:
    """Judge every candidate and write the ranking into the folder; one that fails says so there."""
    from graft.reports.ranking import fine_tuned, weighted_taus

    ranking = {
        "schema": SCHEMA,
        "status": "running",
        "target": candidates.configs[0]["target"]["name"],
        "scores": list(scores),
        "by": by,
        "environment": environment(),
    }
    atomic_write_json(folder / RANKING, ranking)
    try:
        rows = judge_all(candidates, scores, folder)
    except Exception as error:
        atomic_write_json(folder / RANKING, ranking | {"status": "failed", "error": str(error)})
        raise
    rows = [row | {"fine_tuned": fine_tuned(row, records)} for row in rows]
    ranking |= {"status": "done", "candidates": rows, "weighted_tau": weighted_taus(rows, list(scores))}
    atomic_write_json(folder / RANKING, ranking)
    return ranking


def judge_all(candidates: Candidates, scores: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """What there is to say of each candidate; weights are read before anything is trained."""
    from graft.build.assembly import build_experiment, make_scores
    from graft.pipeline import load_weights_file
    from graft.ranking import judge
    from graft.reports.ranking import labels
    from graft.threads import paying_threads

    functions = make_scores(scores)
    for config in candidates.configs:
        load_weights_file(build_experiment(config))
    rows = []
    for index, (config, label) in enumerate(zip(candidates.configs, labels(candidates.jobs), strict=True)):
        print(f"candidate {index + 1} of {len(candidates.configs)}: {label}", flush=True)
        experiment = build_experiment(config)
        with interrupts(), paying_threads(experiment):
            judged = judge(experiment, functions, folder / str(index))
        rows.append({"overrides": candidates.jobs[index], "config": config} | judged)
    return rows


def how_to_compare(overrides: Sequence[str], alternatives: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The commands that fine-tune the candidates, and the one that compares the scores with what comes of it."""
    runs = [shlex.join(["graft", "-m", *overrides, *split(words)]) for words in alternatives or [""]]
    again = ["graft", "rank", *overrides, *(word for words in alternatives for word in ("--candidate", words))]
    again += [word for folder in folders for word in ("--runs", str(folder))]
    return ["no fine-tuned runs of these candidates to compare with; to get them:", *runs, shlex.join(again)]
