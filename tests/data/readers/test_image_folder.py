import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft.data.readers.image_folder import ImageFolder
from graft.errors import UserError


def write_images(folder: Path, num: int, shade: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(num):
        Image.new("L", (3, 2), shade + i).save(folder / f"{i}.png")


def write_tree(root: Path, folders: dict[str, int]) -> Path:
    for shade, (name, num) in enumerate(folders.items()):
        write_images(root / name, num, shade=10 * shade)
    return root


def names(images: Iterable[Path], root: Path) -> list[str]:
    return [image.relative_to(root).as_posix() for image in images]


def refusal(path: Path, domain: str | list[str] | None = None) -> str:
    with pytest.raises(UserError) as raised:
        ImageFolder(path, domain).read()
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_classes_are_numbered_in_the_order_of_their_names(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"wasp": 1, "ant": 2})
    raw = ImageFolder(root).read()
    assert raw.class_names == ("ant", "wasp")
    assert names(raw.train.samples, root) == ["ant/0.png", "ant/1.png", "wasp/0.png"]
    assert raw.train.labels.dtype == np.int64
    assert raw.train.labels.tolist() == [0, 0, 1]
    assert raw.test is None
    assert raw.val is None
    assert raw.root == root


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        (["train"], {"train": 2}),
        (["train", "test"], {"train": 2, "test": 4}),
        (["train", "val"], {"train": 2, "test": 4}),  # val is what was held out
        (["train", "test", "val"], {"train": 2, "test": 4, "val": 6}),
    ],
)
def test_split_folders(tmp_path: Path, folders: list[str], sizes: dict[str, int]) -> None:
    for number, split in enumerate(folders, 1):
        write_tree(tmp_path / split, {"a": number, "b": number})
    raw = ImageFolder(tmp_path).read()
    assert {name: len(split) for name, split in raw.splits.items()} == sizes


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert ImageFolder(write_tree(tmp_path, {"train": 2, "bus": 1})).read().class_names == ("bus", "train")


def test_domains_one_or_several(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"amazon/mug": 1, "amazon/bike": 2, "dslr/mug": 3, "dslr/bike": 4})
    one = ImageFolder(root, "dslr").read()
    assert len(one.train) == 7
    both = ImageFolder(root, ["amazon", "dslr", "amazon"]).read()
    assert both.class_names == ("bike", "mug")
    assert np.bincount(both.train.labels).tolist() == [6, 4]
    parents = [image.parent.name for image in both.train.samples]
    assert parents == [both.class_names[label] for label in both.train.labels]


def test_domains_with_splits(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {f"{d}/{s}/{c}": 1 for d in ("x", "y") for s in ("train", "test") for c in "ab"})
    raw = ImageFolder(root, ["x", "y"]).read()
    assert names(raw.train.samples, root) == [f"{d}/train/{c}/0.png" for d in "xy" for c in "ab"]
    assert len(raw.test or ()) == 4


def test_images_lie_deep_and_hidden_names_are_passed_over(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"a": 1, "a/more/still": 1, "b": 1, ".cache": 1, "b/.thumbnails": 1})
    (root / "b" / "._0.png").write_bytes(b"resource fork")
    (root / "b" / "notes.txt").write_text("no image")
    Image.new("RGB", (2, 2)).save(root / "b" / "LOUD.JPG")
    raw = ImageFolder(root).read()
    assert raw.class_names == ("a", "b")
    assert names(raw.train.samples, root) == ["a/0.png", "a/more/still/0.png", "b/0.png", "b/LOUD.JPG"]


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    def fingerprint(root: str) -> str:
        return ImageFolder(tmp_path / root).read().fingerprint

    for root in ("here", "there", "renamed", "moved"):
        write_tree(tmp_path / root, {"a": 2, "b": 2})
    assert fingerprint("here") == fingerprint("there")
    (tmp_path / "renamed" / "b").rename(tmp_path / "renamed" / "c")
    assert fingerprint("renamed") != fingerprint("here")
    (tmp_path / "moved" / "a" / "1.png").rename(tmp_path / "moved" / "b" / "-1.png")
    assert fingerprint("moved") != fingerprint("here")
    Image.new("L", (3, 2), 255).save(tmp_path / "there" / "a" / "0.png")
    assert fingerprint("here") != fingerprint("there")


def test_missing_folder_names_the_nearest(tmp_path: Path) -> None:
    write_tree(tmp_path / "office", {"a": 1, "b": 1})
    message = refusal(tmp_path / "ofice" / "amazon")
    assert str(tmp_path / "ofice" / "amazon") in message
    assert repr(str(tmp_path / "office")) in message


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "images.zip").touch()
    assert "a file" in refusal(tmp_path / "images.zip")


def test_empty_classes_are_named(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 0})
    message = refusal(root)
    assert "'b'" in message
    assert "'a'" not in message
    assert str(root / "val") in message


def test_no_classes(tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    assert "no class folders" in refusal(tmp_path)


def test_splits_without_classes(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"train": 2, "test": 2})
    assert f"{root / 'train'} holds no class folders" in refusal(root)


def test_one_class_only(tmp_path: Path) -> None:
    assert "one class only, 'a'" in refusal(write_tree(tmp_path, {"a": 3}))


def test_a_domain_must_be_chosen(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"amazon/mug": 1, "amazon/bike": 1, "dslr/mug": 1, "dslr/bike": 1})
    assert "amazon, dslr" in refusal(root)


@pytest.mark.parametrize("domain", ["amazno", ["dslr", "amazno"], []])
def test_unknown_domain_lists_the_domains(tmp_path: Path, domain: str | list[str]) -> None:
    root = write_tree(tmp_path, {"amazon/mug": 1, "amazon/bike": 1, "dslr/mug": 1, "dslr/bike": 1})
    message = refusal(root, domain)
    assert message.startswith("domain=amazno:" if domain else "domain=[]:")
    assert "amazon, dslr" in message


def test_a_domain_of_classes_is_refused(tmp_path: Path) -> None:
    assert "no domains" in refusal(write_tree(tmp_path, {"a": 1, "b": 1}), "a")


def test_splits_must_agree_in_their_classes(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"train/a": 1, "train/b": 1, "test/a": 1, "test/B": 1})
    assert "'B', 'b'" in refusal(root)


def test_domains_must_agree_in_their_splits(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"x/train/a": 1, "x/train/b": 1, "x/test/a": 1, "x/test/b": 1, "y/a": 1, "y/b": 1})
    assert "same splits" in refusal(root, ["x", "y"])


def test_a_misnamed_split_is_not_passed_over(tmp_path: Path) -> None:
    root = write_tree(tmp_path, {"train/a": 1, "train/b": 1, "validation/a": 1, "validation/b": 1, "docs": 0})
    message = refusal(root)
    assert "'validation'" in message
    assert "'docs'" not in message


@pytest.mark.shared
def test_hymenoptera_val_is_held_out(shared: Path) -> None:
    raw = ImageFolder(shared / "data" / "hymenoptera").read()
    assert raw.class_names == ("ants", "bees")
    assert {name: len(split) for name, split in raw.splits.items()} == {"train": 244, "test": 153}


@pytest.mark.shared
def test_office_caltech_domains(shared: Path) -> None:
    root = shared / "data" / "office_caltech10"
    assert "amazon, caltech10, dslr, webcam" in refusal(root)
    sizes = {name: len(ImageFolder(root, name).read().train) for name in ("amazon", "dslr")}
    assert sizes == {"amazon": 958, "dslr": 157}
    assert len(ImageFolder(root, ["amazon", "dslr"]).read().train) == 958 + 157


def test_links_that_stay_within_the_folder_are_followed(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "data", {"a": 2, "b": 1})
    (root / "b" / "again.png").symlink_to(root / "a" / "0.png")
    (root / "c").symlink_to("a")
    (tmp_path / "link").symlink_to(root)
    for path in (root, tmp_path / "link"):
        raw = ImageFolder(path).read()
        assert raw.class_names == ("a", "b", "c")
        assert names(raw.train.samples, path)[2:] == ["b/0.png", "b/again.png", "c/0.png", "c/1.png"]


@pytest.mark.parametrize("name", ["b/out.png", "b/deep/out", "b/out", "out"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    root = write_tree(tmp_path / "data", {"a": 1, "b": 1, "b/deep": 1})
    write_images(tmp_path / "private", 1)
    target = tmp_path / "private" / ("0.png" if name.endswith(".png") else "")
    (root / name).symlink_to(target)
    assert refusal(root) == f"{root / name}: a link to {target}, out of {root}; put a copy in its place"


@pytest.mark.parametrize("target", ["/dev/zero", "/etc/passwd", "../../nothing"])
def test_links_to_what_is_no_image_are_not_opened(tmp_path: Path, target: str) -> None:
    root = write_tree(tmp_path / "data", {"a": 1, "b": 1})
    (root / "b" / "x.png").symlink_to(target)
    assert "out of" in refusal(root)


def test_pipes_and_links_to_nothing_are_refused(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "data", {"a": 1, "b": 1})
    os.mkfifo(root / "b" / "x.png")
    assert refusal(root) == f"{root / 'b' / 'x.png'}: neither a file nor a folder; expected images"
    (root / "b" / "x.png").unlink()
    (root / "b" / "x.png").symlink_to(root / "a" / "missing.png")
    assert "neither a file nor a folder" in refusal(root)
