from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from texts import write_reviews, write_table

from graft.data.domain import Domain
from graft.data.readers.text_table import TextTable
from graft.data.texts import TextPreprocessing
from graft.data.tokenizing import HashedNgrams
from graft.errors import UserError

INPUTS = TextPreprocessing(8, HashedNgrams(buckets=100))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(split: Any) -> list[tuple[str, int]]:
    return list(zip(split.samples, split.labels.tolist(), strict=True))


def test_csv_with_quotes_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    content = '\ufefftext,label\n"good, ""really""\nso",pos\r\n  bad  , neg \n\nfine,pos\n'
    raw = TextTable(write(tmp_path / "a.csv", content)).read()
    assert raw.modality == "text"
    assert raw.class_names == ("neg", "pos")
    assert rows(raw.train) == [('good, "really"\nso', 1), ("bad", 0), ("fine", 1)]
    assert raw.train.labels.dtype == np.int64
    assert raw.broken == ()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", 'Sentence\tClass\nsay "hi\t1\nno\t0\n'),
        ("a.jsonl", '{"sentence": "say \\"hi", "class": 1}\n\n{"class": 0, "sentence": "no", "more": []}\n'),
        ("a.csv", 'id,sentence,class\n7,"say ""hi",1\n8,no,0\n'),
    ],
)
def test_kinds_of_file_hold_the_same(tmp_path: Path, name: str, content: str) -> None:
    raw = TextTable(write(tmp_path / name, content)).read()
    assert raw.class_names == ("0", "1")
    assert rows(raw.train) == [('say "hi', 1), ("no", 0)]


def test_parquet(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": ["yes", "no"], "label": [1, 0]}), tmp_path / "a.parquet")
    assert rows(TextTable(tmp_path / "a.parquet").read().train) == [("yes", 1), ("no", 0)]


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": ["yes", "no"], "label": [1, 0]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"b\.parquet: not a readable parquet file"):
        TextTable(tmp_path / "b.parquet").read()


def test_columns_are_named_joined_or_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "3,Title,Body of it\n12,Other,Text\n")
    raw = TextTable(path, text=["1", "2"], label="0", header=False).read()
    assert raw.class_names == ("3", "12"), "numbers by their size"
    assert rows(raw.train) == [("Title Body of it", 0), ("Other Text", 1)]


def test_splits_lie_in_a_folder_under_a_name_of_their_own_or_are_given(tmp_path: Path) -> None:
    write_reviews(tmp_path)
    films = TextTable(tmp_path, domain="films").read()
    assert films.test is not None
    assert (len(films.train), len(films.test), films.val) == (48, 20, None)
    given = TextTable(tmp_path / "films_train.csv", test_path=tmp_path / "films_test.csv").read()
    assert given.fingerprint == films.fingerprint, "the content counts, not the place"
    assert films.fingerprint != TextTable(tmp_path, domain="books").read().fingerprint
    (tmp_path / "plays").mkdir()
    write_table(tmp_path / "plays" / "train.csv", [("a", "x"), ("b", "y")])
    assert len(TextTable(tmp_path, domain="plays").read().train) == 2
    assert len(TextTable(tmp_path / "plays").read().train) == 2


BROKEN = (
    b"text,label\n"
    b"fine,pos\n"  # 2
    b"only one field\n"  # 3
    b"one,two,three\n"  # 4
    b"  ,neg\n"  # 5
    b"nothing,\n"  # 6
    b"caf\xe9,pos\n"  # 7
    b'"no" end,neg\n'  # 8
    b"bad,neg\n"  # 9
    b'"never closed,pos\nswallowed,neg\n'  # 10
)
REASONS = {
    3: "1 field for 2 columns",
    4: "3 fields for 2 columns",
    5: "an empty text",
    6: "no label",
    7: "byte 0xe9 is not utf-8; set encoding",
    8: "',' expected after '\"'",
    10: "a quote that opens here is never closed",
}


def test_rows_that_cannot_be_read_are_named_by_line(tmp_path: Path) -> None:
    raw = TextTable(write(tmp_path / "a.csv", BROKEN)).read()
    assert {found.line: found.reason for found in raw.broken} == REASONS
    assert rows(raw.train) == [("fine", 1), ("bad", 0)]


def test_a_domain_refuses_them_or_leaves_them_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = BROKEN.replace(b"fine,pos\n", b"fine,pos\nfine,pos\n").replace(b"bad,neg\n", b"bad,neg\nbad,neg\n")
    reader, settings = TextTable(write(tmp_path / "a.csv", content)), {"val_fraction": 0.0, "test_fraction": 0.0}
    with pytest.raises(
        UserError, match=r"7 texts cannot be read; skip_broken=true leaves out such texts: a.csv:4 \(1 f"
    ):
        Domain("a", reader, **settings).load(INPUTS)
    domain = Domain("a", reader, skip_broken=True, **settings)
    domain.load(INPUTS)
    assert domain.sizes["train"] == 4
    assert "left out 7 texts" in caplog.text
    assert "a.csv:12 (a quote that opens here is never closed)" in caplog.text


def test_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\ncafé,a\nthé,b\n".encode("latin-1"))
    assert TextTable(path, encoding="latin-1").read().train.samples == ["café", "thé"]
    with pytest.raises(UserError, match=r"no row with a text and a label: .*a.csv:2 .byte 0xe9"):
        TextTable(path).read()
    with pytest.raises(UserError, match=r"cannot be read as encoding=klingon"):
        TextTable(path, encoding="klingon").read()


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("words,label\na,b\n", {}, "which column holds the text. set text=; the columns are words, label"),
        ("text,kind\na,b\n", {}, "which column holds the label. set label="),
        ("text,label\na,b\n", {"text": "txt"}, "text=txt: .* has no such column; did you mean 'text'"),
        ("text,text,label\na,b,c\n", {}, ":1: columns must have names of their own; twice: text"),
        ("text,label\na,1\nb,2\nc,3\n", {}, "3 different labels in 3 rows"),
        ("text,label\n", {}, "no row with a text and a label"),
        ("", {}, "no row with a text and a label"),
        ("x" * (2**22 + 1), {}, "a.csv:1: a line of more than 4,194,304 characters"),
        (b"\x00\xff\xfe" * 1000, {}, "which column holds the label|no row with a text"),
        ("text,label\n" + "y" * 200_000 + ",a\n", {}, "a field of more than 131,072 characters"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        TextTable(write(tmp_path / "a.csv", content), **settings).read()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("line", ["[1, 2]", "not json", "[" * 100_000, '{"text": ["a"], "label": 1}', '{"text": "a"}'])
def test_json_lines_that_are_no_rows_are_named(tmp_path: Path, line: str) -> None:
    content = f'{{"text": "a", "label": true}}\n{line}\n{{"text": "b", "label": 2.0}}\n'
    raw = TextTable(write(tmp_path / "a.jsonl", content)).read()
    assert [found.line for found in raw.broken] == [2]
    assert raw.class_names == ("2", "true")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "nowhere.csv"}, "path=.*nowhere.csv: no such file"),
        ({"path": "films_trian.csv"}, "did you mean '.*films_train.csv'"),
        ({"path": "films_train.csv", "test_path": "gone.csv"}, "test_path=.*gone.csv: no such file"),
        ({"path": ".", "domain": "film"}, "holds no film_train.csv or film.csv, only .*; the domains are books, films"),
        ({"path": "."}, "holds no train.csv"),
        ({"path": ".", "domain": "films", "test_path": "films_test.csv"}, "test_path: .* is a folder"),
        ({"path": "films_train.csv", "domain": "films"}, "domain=films: .* is no folder"),
        ({"path": "notes.txt"}, "expected a file ending in .csv, .tsv, .jsonl, .parquet"),
    ],
)
def test_paths_that_hold_no_table(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    write_reviews(tmp_path)
    write(tmp_path / "notes.txt", "text")
    paths = {key: value if key == "domain" else str(tmp_path / value) for key, value in settings.items()}
    with pytest.raises(UserError, match=message):
        TextTable(**paths).read()


def test_labels_of_the_test_split_are_those_of_training(tmp_path: Path) -> None:
    train = write_table(tmp_path / "a.csv", [("x", "a"), ("y", "b"), ("z", "b")])
    test = write_table(tmp_path / "b.csv", [("x", "a"), ("y", "c")])
    with pytest.raises(UserError, match=r"b.csv: labels that no training row has: c; those are a, b"):
        TextTable(train, test_path=test).read()
