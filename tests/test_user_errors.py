"""Errors name what may have been meant."""

from pathlib import Path

from graft.errors import nearest_path


def test_nearest_path(tmp_path: Path) -> None:
    (tmp_path / "flowers").mkdir()
    assert nearest_path(tmp_path / "flower") == f"; did you mean '{tmp_path / 'flowers'}'?"
    assert nearest_path(tmp_path / "zzz") == ""
    assert nearest_path(tmp_path / "no" / "where") == ""
