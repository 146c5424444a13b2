"""Records: identity, reading back, refusal of what is not one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from graft.errors import UserError
from graft.records.hashing import content_hash
from graft.records.record import end_record, find_records, load_record, run_identity, start_record, write_record

CONFIG = {"seed": 0, "strategy": {"name": "scratch"}, "paths": {"outputs": "here"}}


def test_a_record_reads_back(tmp_path: Path) -> None:
    record = end_record(start_record("default", 0, CONFIG), "done")
    write_record(tmp_path, record)
    assert load_record(tmp_path) == record
    assert load_record(tmp_path / "record.json") == record


def test_identity_is_what_is_computed_not_where(tmp_path: Path) -> None:
    assert run_identity(CONFIG) == run_identity(CONFIG | {"paths": {"outputs": "there"}})
    assert run_identity(CONFIG) != run_identity(CONFIG | {"seed": 1})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}'])
def test_what_is_not_a_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(UserError, match=r"record\.json"):
        load_record(tmp_path)


def test_a_future_schema_is_refused(tmp_path: Path) -> None:
    record = start_record("default", 0, CONFIG) | {"schema": 99}
    (tmp_path / "record.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="schema 99"):
        load_record(tmp_path)


def test_records_are_found_below_folders(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        write_record(tmp_path / name, start_record(name, 0, CONFIG))
    assert [record["experiment"] for _, record in find_records([tmp_path])] == ["a", "b"]
    with pytest.raises(UserError, match="no such folder"):
        find_records([tmp_path / "c"])


def test_a_number_that_json_lacks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path, start_record("default", 0, CONFIG) | {"metrics": {"loss": float("nan")}})
    assert not list(tmp_path.iterdir())


def test_only_plain_values_have_a_hash() -> None:
    with pytest.raises(TypeError, match="not plain"):
        content_hash({"a": object()})


def test_records_and_reports_import_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, graft.records.store, graft.records.record, graft.reports.terminal, graft.reports.export;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'pytorch_lightning')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
