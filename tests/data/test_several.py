"""Several sources as one: all of each, in the shares that were asked for, and refused where classes differ."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import write_arrays

from graft.data.domain import Domain
from graft.data.readers.arrays import Arrays
from graft.data.several import SeveralDomains
from graft.errors import UserError
from graft.models.backbones.cnn import Cnn


def part(folder: Path, name: str, num_per_class: int, num_classes: int = 3, **settings: Any) -> Domain:
    path = write_arrays(folder / f"{name}.npz", num_per_class, num_classes, seed=num_per_class)
    return Domain(name, Arrays(path=str(path)), batch_size=12, **settings)


def several(folder: Path, **settings: Any) -> SeveralDomains:
    """Parts of 54 and 18 training images, in batches of 12."""
    parts = {"large": part(folder, "large", 20), "small": part(folder, "small", 7, val_fraction=0.15)}
    domain = SeveralDomains("both", parts, batch_size=12, **settings)
    domain.load(Cnn().preprocessing)
    return domain


def test_holds_all_images_of_each_part_with_their_labels(tmp_path: Path) -> None:
    domain = several(tmp_path)
    parts = list(domain.parts.values())
    for split in ("train", "val", "test"):
        assert domain.sizes[split] == sum(part.sizes[split] for part in parts) > 0
    [whole] = domain.loader("train", batch_size=1000)
    own = [next(iter(part.loader("train", batch_size=1000))) for part in parts]
    assert torch.equal(whole.x, torch.cat([batch.x for batch in own]))
    assert torch.equal(whole.y, torch.cat([batch.y for batch in own]))
    assert whole.domains.tolist() == [0] * len(own[0].y) + [1] * len(own[1].y)


def test_images_of_a_mixed_batch_are_those_at_its_positions(tmp_path: Path) -> None:
    domain = several(tmp_path)
    [whole] = domain.loader("train", batch_size=1000)
    for batch in domain.train_dataloader():
        assert torch.equal(batch.x, whole.x[batch.positions])
        assert torch.equal(batch.y, whole.y[batch.positions])
        assert torch.equal(batch.domains, whole.domains[batch.positions])


def test_equal_shares_are_equal_in_every_batch(tmp_path: Path) -> None:
    domain = several(tmp_path)
    for batch in domain.train_dataloader():
        counts = batch.domains.bincount(minlength=2)
        assert abs(int(counts[0] - counts[1])) <= 1


def test_proportional_shares_give_every_image_once(tmp_path: Path) -> None:
    domain = several(tmp_path, shares="proportional")
    positions = torch.cat([batch.positions for batch in domain.train_dataloader()])
    assert sorted(positions.tolist()) == list(range(domain.sizes["train"]))


def test_balanced_batches_are_so_within_each_part(tmp_path: Path) -> None:
    parts = {name: part(tmp_path, name, num, balanced=True) for name, num in (("a", 20), ("b", 8))}
    domain = SeveralDomains("both", parts, batch_size=12, balanced=True)
    domain.load(Cnn().preprocessing)
    first = next(iter(domain.train_dataloader()))
    assert Counter(zip(first.domains.tolist(), first.y.tolist(), strict=True)).most_common(1)[0][1] == 2


def test_the_fingerprint_covers_every_part(tmp_path: Path) -> None:
    domain = several(tmp_path)
    other = SeveralDomains(
        "both", {"large": part(tmp_path, "large", 20), "small": part(tmp_path, "small", 9)}, batch_size=12
    )
    other.load(Cnn().preprocessing)
    assert domain.fingerprint != other.fingerprint
    (tmp_path / "again").mkdir()
    assert domain.fingerprint == several(tmp_path / "again").fingerprint


def test_the_seed_of_the_splits_of_a_part_may_be_left_out_of_the_fingerprint(tmp_path: Path) -> None:
    domains = []
    for seed in (0, 1):
        small = part(tmp_path, "small", 9, split_seed=seed)
        domains.append(SeveralDomains("both", {"large": part(tmp_path, "large", 20), "small": small}, batch_size=12))
        domains[-1].load(Cnn().preprocessing)
    first, second = domains
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint_of_any_split == second.fingerprint_of_any_split


def test_parts_of_other_classes_are_refused_by_name(tmp_path: Path) -> None:
    parts = {"three": part(tmp_path, "three", 20), "four": part(tmp_path, "four", 20, num_classes=4)}
    with pytest.raises(UserError, match=r"three has 3, four has 4; three lacks 3$"):
        SeveralDomains("both", parts, batch_size=12).load(Cnn().preprocessing)


def test_a_part_has_no_batches_of_its_own(tmp_path: Path) -> None:
    parts = {name: part(tmp_path, name, 20) for name in "ab"}
    with pytest.raises(UserError, match=r"parts\.a\.batch_size"):
        SeveralDomains("both", parts, batch_size=16)
    with pytest.raises(UserError, match="two or more"):
        SeveralDomains("one", {"a": parts["a"]}, batch_size=12)


def test_validation_images_come_in_order(tmp_path: Path) -> None:
    domain = several(tmp_path)
    positions = torch.cat([batch.positions for batch in domain.val_dataloader()])
    assert np.array_equal(positions, np.arange(domain.sizes["val"]))
