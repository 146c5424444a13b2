"""Where the loggers of a run write."""

from dataclasses import dataclass
from pathlib import Path

from graft.records.hashing import content_hash


@dataclass(frozen=True)
class Place:
    """Where a stage writes.

    The jobs of a sweep write below the sweep's folder, each under a name that says what sets it apart, since
    TensorBoard calls a run by its folder.
    """

    folder: Path  # of the run, or of the sweep that it is a job of
    job: str = ""  # name of the job in its sweep; empty for a run by itself
    stage: str = ""
    overrides: tuple[str, ...] = ()  # what sets the job apart

    def below(self, kind: str) -> Path:
        """The folder of one kind of logger."""
        return self.folder / kind / self.job / self.stage

    @property
    def run(self) -> str:
        """What the run is called among others."""
        return self.job or self.folder.name

    @property
    def identity(self) -> str:
        """The same for a stage that goes on."""
        return content_hash([str(self.folder.resolve()), self.job, self.stage])[:16]
