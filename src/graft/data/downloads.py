"""What readers say of data sets that can be downloaded."""

from pathlib import Path

from graft.errors import UserError

REMEDY = "target.download=true (source.download=true for a source) fetches it"


def not_downloaded(name: str, folder: Path, error: Exception) -> UserError:
    """The error of a download that failed."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return UserError(f"{name} could not be downloaded to {folder}; is there a network? ({reason})")
