import io

from records_by_hand import done, failed
from rich.console import Console

from graft.reports.jobs import clock, counts_line, finished_line, running_table, seconds_left


def test_a_job_that_ended_in_a_line() -> None:
    assert finished_line("3 of 12", "2", "seed=2", done(0.9)) == "3 of 12  job 2  seed=2  90.0 %, +10.0 points, 9.0 s"
    assert finished_line("1 of 1", "0", "", done(0.9, scratch=None)) == "1 of 1  job 0  90.0 %, 9.0 s"
    error = "Traceback (most recent call last):\n  File 'a.py', line 1\nRuntimeError: no luck"
    assert finished_line("1 of 2", "0", "seed=1", failed(error)) == (
        "1 of 2  job 0 failed: RuntimeError: no luck (seed=1)"
    )


def test_counts_and_time() -> None:
    assert counts_line({"done": 3, "failed": 0, "queued": 2}, 75.0) == "5 jobs: 3 done, 2 queued; about 1:15 left"
    assert counts_line({"done": 3}, None) == "3 jobs: 3 done"
    assert clock(3725) == "1:02:05"
    assert seconds_left(10.0, 4, 6) == 15.0
    assert seconds_left(3.0, 0, 10) is None


def test_the_table_of_running_jobs_keeps_to_its_height_and_width() -> None:
    console = Console(file=io.StringIO(), width=60)
    rows = [(str(job), f"seed={job}" * 20, "transfer: 1/2 epochs") for job in range(9)]
    console.print(running_table(rows, "9 jobs: 9 running", most=3))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 5
    assert "and 6 more" in lines[3]
    assert max(map(len, lines)) <= 60
