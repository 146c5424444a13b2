"""Features that several processes compute together are those that one computes alone, bit by bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import network, tiny_domain

from graft import features
from graft.data.augment import Augmentation
from graft.features import FeatureCache, Features, Inference, Prefix
from graft.records.store import Store

NUM = 3


def kept(folder: Path, store: str) -> Features:
    torch.manual_seed(0)
    net = network("resnet20")
    domain = tiny_domain(folder, batch_size=7, augmentation=Augmentation(flip=True))  # shares differ in size
    cache = FeatureCache(Store(folder / store), limit=2**30)
    how = Inference(torch.device("cpu"))
    evaluated = cache.get(Prefix.whole(net.backbone), domain, ["train", "val"], how)
    augmented = cache.get(Prefix(net.backbone, 2), domain, ["train"], how, augmented_views=2)
    assert evaluated is not None
    assert augmented is not None
    return evaluated | {"augmented": augmented["train"]}


@pytest.mark.parametrize("blind", [(), (1,)], ids=["one disk", "a machine with a disk of its own"])
def test_shares_make_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blind: tuple[int, ...]) -> None:
    asked: list[int] = []

    def in_all(function: Callable[..., Any], *arguments: Any) -> list[Any]:
        asked.extend(range(NUM))
        return [rank not in blind and function(rank, *arguments) for rank in range(NUM)]

    alone = kept(tmp_path, "alone")
    monkeypatch.setattr(features, "num_standing", lambda: NUM)
    monkeypatch.setattr(features, "in_all", in_all)
    together = kept(tmp_path, "together")
    assert len(asked) == NUM * 4  # train, val and two views
    assert together.keys() == alone.keys()
    for split, views in alone.items():
        assert all(torch.equal(*pair) for pair in zip(views, together[split], strict=True)), split
