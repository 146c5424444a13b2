"""Kills runs of graft at random moments, resumes them until they are done, and compares them with undisturbed ones.

Prints how many kills were survived, by what the run was at and by how the moment was chosen, and every difference.
`scripts/kill` runs it.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from graft_processes import Graft
from victims import CASES, Case, Trial, tell, trial

KILLS_A_RUN = 5  # at most, and it goes on after each


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill as often as asked for; returns 0 where every run ended as if nothing had happened."""
    parser = argparse.ArgumentParser(prog="kill", description=__doc__)
    flag = parser.add_argument
    flag("--kills", type=int, default=100, help="how many (%(default)s)")
    flag("--seed", type=int, default=0, help="other moments than those of seed 0")
    flag("--only", choices=CASES, nargs="+", default=list(CASES), help="some of the cases")
    flag("--signal", choices=("KILL", "TERM"), default="KILL", help="TERM: as a scheduler preempts (%(default)s)")
    flag("--minutes", type=float, default=float("inf"), help="begin no further run after so many")
    flag("--together", type=int, metavar="NUM", help="instead: so many processes ask for the same at once")
    flag("--full-disk", type=int, metavar="NUM", help="instead: so many runs on disks that are too small (as root)")
    flag("--fresh", action="store_true", help="start each process as a user does, not as a fork of a warm one")
    flag("--work", type=Path, help="a folder for the runs (a temporary one; in memory is fastest)")
    options = parser.parse_args(arguments)
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="kill-", dir=options.work))
    graft = Graft(fresh=options.fresh)
    if options.together:
        from together import race

        failed = race(graft, options.together, work)
    elif options.full_disk:
        from full_disk import fill_disks

        failed = fill_disks(graft, options.full_disk, options.only, options.seed, work)
    else:
        failed = kill(graft, options, work)
    if not failed:
        shutil.rmtree(work)
    return int(failed)


def kill(graft: Graft, options: argparse.Namespace, work: Path) -> bool:
    """Go through the cases again and again until there were so many kills; whether anything differed."""
    rng = random.Random(options.seed)
    number = signal.Signals[f"SIG{options.signal}"]
    cases = [Case(name, work / name, graft) for name in options.only]
    rng.shuffle(cases)
    done: list[Trial] = []
    until = time.monotonic() + 60 * options.minutes
    while (killed := sum(len(each.kills) for each in done)) < options.kills and time.monotonic() < until:
        case = cases[len(done) % len(cases)]
        done.append(trial(case, len(done), rng, min(KILLS_A_RUN, options.kills - killed), number))
        tell(case, f"{len(done[-1].kills)} kills", done[-1].differences)
    report(done, options.signal)
    return not all(each.ok for each in done)


def report(done: list[Trial], name: str) -> None:
    """Print what became of all kills."""
    kills = [each for trial in done for each in trial.kills]
    survived = sum(len(trial.kills) for trial in done if trial.ok)
    print(f"\n{len(kills)} times SIG{name} in {len(done)} runs: {survived} survived")
    for title, names in (("at", [one.stage for one in kills]), ("moment", [one.moment for one in kills])):
        for what, count in Counter(names).most_common():
            print(f"  {title:<7} {what:<40} {count}")
    if seconds := sorted(one.seconds for one in kills if one.seconds is not None):
        print(f"  seconds from the signal to the end: {seconds[len(seconds) // 2]:.2f} median, {seconds[-1]:.2f} most")


if __name__ == "__main__":
    sys.exit(main())
