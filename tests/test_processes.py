"""Where a trainer fits: alone in its process unless torchrun or srun started several."""

import pytest
from lightning_fabric.plugins.environments import LightningEnvironment

from graft.cli.main import one_of_several
from graft.processes import become_torchrun, one_device, placement
from graft.sharding import FullySharded

OF_A_STEP = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment without a word of a cluster, which is put back after the test."""
    own: dict[str, str] = {}
    monkeypatch.setattr("os.environ", own)
    return own


def test_a_trainer_is_told_that_it_starts_its_processes_itself() -> None:
    assert [type(plugin) for plugin in placement("ddp_spawn").pop("plugins")] == [LightningEnvironment]
    assert placement("ddp_spawn").keys() == {"plugins"}
    assert isinstance(placement("fsdp")["strategy"], FullySharded)
    assert one_device()["devices"] == 1


def test_a_step_of_slurm_is_told_in_torchruns_words(variables: dict[str, str]) -> None:
    variables |= OF_A_STEP
    assert one_of_several()
    become_torchrun()
    expected = {
        "MASTER_ADDR": "node07",
        "MASTER_PORT": "19567",
        "RANK": "5",
        "LOCAL_RANK": "1",
        "GROUP_RANK": "1",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "4",
    }
    assert {name: variables[name] for name in expected} == expected


def test_processes_of_one_node_meet_there_unless_told_otherwise(variables: dict[str, str]) -> None:
    variables |= OF_A_STEP | {"SLURM_STEP_NUM_NODES": "1", "MASTER_PORT": "4000"}
    become_torchrun()
    assert (variables["MASTER_ADDR"], variables["MASTER_PORT"]) == ("127.0.0.1", "4000")


@pytest.mark.parametrize(
    "words", [{}, {"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_NTASKS": "4"}, {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "1"}]
)
def test_one_process_is_no_part_of_several(words: dict[str, str], variables: dict[str, str]) -> None:
    variables |= words
    assert not one_of_several()
