"""The processes of a fit on several devices: who starts them."""

import os

import torch.distributed
from lightning_fabric.plugins.environments import ClusterEnvironment, LightningEnvironment


def started_by_cluster() -> bool:
    """Whether torchrun or srun started this program as several processes, one for each device."""
    return torch.distributed.is_torchelastic_launched() or int(os.environ.get("SLURM_NTASKS", 1)) > 1


def environments() -> list[ClusterEnvironment]:
    """What a trainer has to be told of who starts its processes; left to find out where that is not itself.

    By itself Lightning takes a job of Slurm for one process of several: it refuses other numbers of devices than tasks,
    and hears the signals of a job that is to be queued again; where srun is installed, it warns that it is not used.
    """
    return [] if started_by_cluster() else [LightningEnvironment()]
