"""Published sets of texts and sounds, from files written as their authors have them."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from sounds import tone, write_wav

from graft.data.readers.base import RawDataset
from graft.data.readers.published import LAYOUTS, Layout, PublishedSet, Source, fetch
from graft.errors import UserError


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_ag_news(folder: Path) -> None:
    write(
        folder / "train.csv",
        '"3","Oil up","Prices, ""again"""\n"1","Talks","On \\peace"\n"4","Chip","A"\n"2","Cup","B"\n"2","Goal","C"\n',
    )
    write(folder / "test.csv", '"2","Final","Lost"\n')


def write_imdb(folder: Path) -> None:
    for split in ("train", "test"):
        write(folder / "aclImdb" / split / "pos" / "0_9.txt", f"Good {split}")
        write(folder / "aclImdb" / split / "neg" / "0_2.txt", f"Bad {split}")
        write(folder / "aclImdb" / split / "urls_pos.txt", "http://...")
    write(folder / "aclImdb" / "train" / "unsup" / "0_0.txt", "Who knows")


def write_sst2(folder: Path) -> None:
    write(folder / "SST-2" / "train.tsv", "sentence\tlabel\ndull \t0\nlovely film \t1\n")
    write(folder / "SST-2" / "dev.tsv", "sentence\tlabel\nnot dull .\t1\n")
    write(folder / "SST-2" / "test.tsv", "index\tsentence\n0\tunlabelled\n")


def write_speech_commands(folder: Path) -> None:
    for word in ("bed", "cat", "_background_noise_"):
        for name in "abc":
            write_wav(folder / word / f"{name}_nohash_0.wav", tone(440, 16000, 0.1), 16000)
    write(folder / "testing_list.txt", "cat/b_nohash_0.wav\n")
    write(folder / "validation_list.txt", "bed/a_nohash_0.wav\ncat/a_nohash_0.wav\n")


WRITERS: dict[str, Callable[[Path], None]] = {
    "ag_news": write_ag_news,
    "imdb": write_imdb,
    "sst2": write_sst2,
    "speech_commands": write_speech_commands,
}


def read(name: str, root: Path) -> RawDataset:
    WRITERS[name](root / name)
    return PublishedSet(name, root).read()


def rows(data: RawDataset) -> dict[str, list[tuple[str, str]]]:
    """Sample and class of every split."""
    return {
        name: [(str(x), data.class_names[y]) for x, y in zip(split.samples, split.labels, strict=True)]
        for name, split in data.splits.items()
    }


def test_every_set_is_tested() -> None:
    assert WRITERS.keys() == LAYOUTS.keys()


def test_ag_news(tmp_path: Path) -> None:
    assert rows(read("ag_news", tmp_path)) == {
        "train": [
            ('Oil up Prices, "again"', "Business"),
            ("Talks On \\peace", "World"),
            ("Chip A", "Sci/Tech"),
            ("Cup B", "Sports"),
            ("Goal C", "Sports"),
        ],
        "test": [("Final Lost", "Sports")],
    }


def test_imdb_leaves_out_what_has_no_label(tmp_path: Path) -> None:
    assert rows(read("imdb", tmp_path)) == {
        "train": [("Bad train", "neg"), ("Good train", "pos")],
        "test": [("Bad test", "neg"), ("Good test", "pos")],
    }


def test_sst2_is_tested_on_what_glue_calls_dev(tmp_path: Path) -> None:
    assert rows(read("sst2", tmp_path)) == {
        "train": [("dull", "negative"), ("lovely film", "positive")],
        "test": [("not dull .", "positive")],
    }


def test_speech_commands_are_split_by_their_lists(tmp_path: Path) -> None:
    data = read("speech_commands", tmp_path)
    folder = tmp_path / "speech_commands"
    assert data.modality == "audio"
    assert rows(data) == {
        "train": [(str(folder / "bed" / f"{name}_nohash_0.wav"), "bed") for name in "bc"]
        + [(str(folder / "cat" / "c_nohash_0.wav"), "cat")],
        "test": [(str(folder / "cat" / "b_nohash_0.wav"), "cat")],
        "val": [(str(folder / word / "a_nohash_0.wav"), word) for word in ("bed", "cat")],
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_nothing_is_fetched_unasked(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{name} is not in .*download=true .* fetches it"):
        PublishedSet(name, tmp_path).read()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_missing_in_the_folder_is_said(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name} is damaged in .*remove it to fetch it anew"):
        PublishedSet(name, tmp_path, download=True).read()


def test_an_unknown_name_brings_the_nearest_up(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'ag_news'"):
        PublishedSet("agnews", tmp_path).read()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where files of the test's folder are published."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_archives_are_fetched_and_unpacked(kind: str, tmp_path: Path, address: str) -> None:
    write_sst2(tmp_path / "published")
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), kind, tmp_path / "published"))
    source = Source(f"{address}/{archive.name}", hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest())
    layout = Layout((source,), "1 MB", LAYOUTS["sst2"].read)

    fetch(layout, tmp_path / "data" / "sst2")

    assert PublishedSet("sst2", tmp_path / "data").read().class_names == ("negative", "positive")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["sst2"]


def test_files_are_fetched_as_they_are(tmp_path: Path, address: str) -> None:
    write_ag_news(tmp_path / "published")
    sources = tuple(
        Source(f"{address}/published/{file.name}", hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest())
        for file in (tmp_path / "published").iterdir()
    )
    fetch(Layout(sources, "1 MB", LAYOUTS["ag_news"].read), tmp_path / "data" / "ag_news")
    assert len(PublishedSet("ag_news", tmp_path / "data").read().train) == 5


def test_a_download_that_is_not_what_was_published_leaves_nothing(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "train.csv", "something else")
    source = Source(f"{address}/train.csv", "0" * 32)
    monkeypatch.setitem(LAYOUTS, "ag_news", Layout((source,), "1 MB", LAYOUTS["ag_news"].read))
    with pytest.raises(UserError, match=r"ag_news could not be downloaded to .*is there a network"):
        PublishedSet("ag_news", tmp_path / "data", download=True).read()
    assert not list((tmp_path / "data").iterdir())
