"""A sweep on a Ray cluster on this machine, of two nodes and one that only leads; one of the two dies half way."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from long_jobs import EPOCHS, LONG, epochs_saved, finish, only_sweep, start_graft, wait_until
from outcomes import outcome, record_in
from processes import environment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


FIRST_PORT = 28000


def own_place(number: int) -> dict[str, int]:
    """Ports and memory of a node. One that has to find ports gives up where that takes longer than 15 seconds."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    ports = {name: FIRST_PORT + 10 * number + position for position, name in enumerate(names)}
    return ports | {"object_store_memory": 80_000_000}


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, **own_place(0)}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for number in (1, 2):
        cluster.add_node(num_cpus=1, **own_place(number))
    yield cluster
    cluster.shutdown()


def node_of(job: Path, cluster: Any) -> Any:
    """The node whose raylet started the process that holds the lock of a job."""
    lock = str(job / "run.lock")
    [worker] = {fd.parent.parent for fd in Path("/proc").glob("[0-9]*/fd/*") if links_to(fd) == lock}
    parent = int((worker / "stat").read_text().rpartition(")")[2].split()[1])
    [node] = [node for node in cluster.list_all_nodes() if node.all_processes["raylet"][0].process.pid == parent]
    return node


def links_to(fd: Path) -> str:
    try:
        return str(fd.readlink())
    except OSError:  # has been closed
        return ""


def test_a_node_that_dies_takes_its_job_alone_and_resume_runs_just_that(
    cluster: Any, undisturbed: Path, tmp_path: Path
) -> None:
    env = environment() | {"RAY_ADDRESS": cluster.address}
    stays_lost = "hydra.launcher.ray.remote.max_retries=0"
    process = start_graft("-m", "hydra/launcher=ray", stays_lost, "seed=0,1", *LONG, cwd=tmp_path, env=env)
    wait_until(lambda: len([*tmp_path.glob("outputs/*/*-sweep/[01]/transfer/last.ckpt")]) == 2, process)
    sweep = only_sweep(tmp_path)
    cluster.remove_node(node_of(sweep / "0", cluster), allow_graceful=False)
    printed = finish(process, code=1)
    assert "missing: job 0 (seed=0): its process ended before it did" in " ".join(printed.split())
    kept = record_in(sweep / "1")
    assert kept["status"] == "done"
    assert 1 <= epochs_saved(sweep / "0") < EPOCHS
    finish(start_graft("resume", str(sweep), cwd=tmp_path, env=env))
    assert record_in(sweep / "1") == kept
    assert outcome(sweep / "0") == outcome(undisturbed)
