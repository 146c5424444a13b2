"""Records: identity, reading back, refusal of what is not one."""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from records_by_hand import done

from graft.errors import UserError
from graft.records.hashing import content_hash
from graft.records.record import find_records, load_record, run_identity, start_record, write_record

CONFIG = {"seed": 0, "strategy": {"name": "scratch"}, "paths": {"outputs": "here"}}


def test_a_record_reads_back(tmp_path: Path) -> None:
    record = done(0.9)
    write_record(tmp_path, record)
    assert load_record(tmp_path) == record
    assert load_record(tmp_path / "record.json") == record


@pytest.mark.parametrize("key", ["metrics", "fingerprints", "config"])
def test_a_record_that_lacks_a_part_is_refused(tmp_path: Path, key: str) -> None:
    record = done(0.9)
    del record[key]
    write_record(tmp_path, record)
    with pytest.raises(UserError, match=f"{key} missing"):
        load_record(tmp_path)


def test_an_unknown_status_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path, done(0.9) | {"status": "dne"})
    with pytest.raises(UserError, match="'dne', expected one of: running, done, failed"):
        load_record(tmp_path)


def test_the_order_of_rules_is_part_of_the_identity() -> None:
    rules = [{"a": None, ".*": {"lr_scale": 1}}, {".*": {"lr_scale": 1}, "a": None}]
    ids = {run_identity(CONFIG | {"strategy": {"phases": [{"rules": table}]}}) for table in rules}
    assert len(ids) == 2


def test_identity_is_what_is_computed_not_where(tmp_path: Path) -> None:
    assert run_identity(CONFIG) == run_identity(CONFIG | {"paths": {"outputs": "there"}})
    assert run_identity(CONFIG) != run_identity(CONFIG | {"seed": 1})


def test_where_images_are_cached_is_no_part_of_the_identity_of_several_sources() -> None:
    def identity(**part: object) -> str:
        return run_identity(CONFIG | {"source": {"parts": {"first": {"cache": "here", "seed": 0} | part}}})

    assert identity(cache="there") == identity()
    assert identity(seed=1) != identity()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}'])
def test_what_is_not_a_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(UserError, match=r"record\.json"):
        load_record(tmp_path)


def test_a_future_schema_is_refused(tmp_path: Path) -> None:
    record = start_record("default", 0, CONFIG) | {"schema": 99}
    write_record(tmp_path, record)
    with pytest.raises(UserError, match="schema 99"):
        load_record(tmp_path)


def test_a_record_that_was_changed_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path, start_record("default", 0, CONFIG))
    path = tmp_path / "record.json"
    written = path.read_text()
    for changed in (written.replace('"seed": 0', '"seed": 1', 1), written.replace("checksum", "checksun")):
        path.write_text(changed)
        with pytest.raises(UserError, match="checksum"):
            load_record(tmp_path)
    path.write_text(written)
    load_record(tmp_path)


def write_runs(root: Path, *names: str) -> None:
    for name in names:
        write_record(root / name, start_record(name, 0, CONFIG))


def test_records_are_found_below_folders_job_10_after_job_9(tmp_path: Path) -> None:
    write_runs(tmp_path, "10", "9", "1")
    assert [record["experiment"] for _, record in find_records([tmp_path])] == ["1", "9", "10"]


def test_a_run_named_twice_is_found_once(tmp_path: Path) -> None:
    write_runs(tmp_path, "a", "b")
    (tmp_path / "latest").symlink_to("b")
    found = find_records([tmp_path, tmp_path / "latest", tmp_path / "b" / "record.json"])
    assert [record["experiment"] for _, record in found] == ["a", "b"]


def test_a_folder_that_is_not_there_brings_the_nearest_one_up(tmp_path: Path) -> None:
    write_runs(tmp_path, "outputs")
    with pytest.raises(UserError, match=r"no such folder; did you mean .*outputs'"):
        find_records([tmp_path / "output"])


def test_a_damaged_record_is_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_runs(tmp_path, "a", "b")
    (tmp_path / "b" / "record.json").write_text("{")
    assert [folder.name for folder, _ in find_records([tmp_path])] == ["a"]
    assert str(tmp_path / "b" / "record.json") in caplog.text
    with pytest.raises(UserError, match="not valid JSON"):
        find_records([tmp_path / "b"])


def test_many_damaged_records_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(6):
        write_record(tmp_path / str(number), done(0.9))
        if number:
            (tmp_path / str(number) / "record.json").write_text("{")
    assert len(find_records([tmp_path])) == 1
    assert len(caplog.messages) == 4
    assert caplog.messages[-1] == "left out: 2 more records that cannot be read"


def test_a_number_that_json_lacks_is_null(tmp_path: Path) -> None:
    record = start_record("default", 0, CONFIG) | {"metrics": {"loss": float("nan")}, "history": [(1, float("inf"))]}
    write_record(tmp_path, record)
    assert load_record(tmp_path)["metrics"] == {"loss": None}
    assert load_record(tmp_path)["history"] == [[1, None]]


def test_the_hash_is_the_same_in_every_process_and_tells_types_apart() -> None:
    # Computed by: printf '{"a": [1, 2.0], "b": null}' | sha256sum
    assert (
        content_hash({"b": None, "a": (1, 2.0)}) == "bd875cb0c864a4c2d6094ec21bfd3bc09a21435db8c9b37396ddd86ae47e0065"
    )
    assert len({content_hash(value) for value in (1, 1.0, True, "1", [1], None)}) == 6


def test_only_plain_values_have_a_hash() -> None:
    with pytest.raises(TypeError, match="not plain"):
        content_hash({"a": object()})


def test_records_and_reports_import_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, graft.records.store, graft.records.record, graft.reports.report;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'torchvision', 'pytorch_lightning')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_keys_that_are_not_wanted_are_not_read_and_damage_to_them_is_still_seen(tmp_path: Path) -> None:
    record = done(0.9) | {"history": [{"epoch": 1}], "classes": {"names": ["a"]}}
    write_record(tmp_path, record)
    assert load_record(tmp_path, without=("history",)) == {k: v for k, v in record.items() if k != "history"}
    path = tmp_path / "record.json"
    path.write_text(path.read_text().replace('{"epoch": 1}', '{"epoch": 2}'))
    with pytest.raises(UserError, match="checksum does not match"):
        load_record(tmp_path, without=("history",))


def test_values_of_several_lines_are_read(tmp_path: Path) -> None:
    write_record(tmp_path, done(0.9) | {"history": [1]})
    path = tmp_path / "record.json"
    body = path.read_text().partition(',\n  "checksum"')[0].replace("[1]", "[\n    1,\n    2\n  ]")
    checksum = sha256(f"{body}\n}}".encode()).hexdigest()
    path.write_text(f'{body},\n  "checksum": "{checksum}"\n}}\n')
    assert load_record(tmp_path, without=("classes",))["history"] == [1, 2]
