"""Groups that take turns: equal numbers in every batch, every sample seen, an order of seed and epoch alone."""

from pathlib import Path

import numpy as np
import torch
from builders import tiny_domain
from hypothesis import given
from hypothesis import strategies as st

from graft.data.datasets import EpochSampler
from graft.data.domain import Domain
from graft.data.turns import in_turns
from graft.features import FeatureDomain

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=6)


def labels_of(sizes: list[int]) -> np.ndarray:
    labels = np.repeat(np.arange(len(sizes)) * 3, sizes)  # numbers need not follow one another
    return np.random.default_rng(0).permutation(labels)


@given(sizes=SIZES, batch_size=st.integers(1, 40), epoch=st.integers(0, 5), cycle=st.integers(0, 2))
def test_every_batch_holds_equally_many_of_each_class(
    sizes: list[int], batch_size: int, epoch: int, cycle: int
) -> None:
    labels = labels_of(sizes)
    sampler = EpochSampler(len(labels), batch_size, seed=4, groups=(labels,))
    sampler.set_epoch(epoch)
    sampler.cycle = cycle
    found = list(sampler)
    assert len(found) == -(-len(labels) // batch_size)
    assert sum(map(len, found)) == len(labels)
    for batch in found:
        counts = [int((labels[batch] == label).sum()) for label in np.unique(labels)]
        assert max(counts) - min(counts) <= 1


@given(sizes=SIZES, first_epoch=st.integers(0, 3))
def test_every_sample_comes_before_long(sizes: list[int], first_epoch: int) -> None:
    labels = labels_of(sizes)
    an_epoch = len(labels) // len(sizes)  # of each class, at least
    num_epochs = 2 * max(-(-size // an_epoch) for size in sizes)  # the rest of one round, and a whole one
    seen = {int(i) for epoch in range(num_epochs) for i in in_turns((labels,), 1, first_epoch + epoch)}
    assert seen == set(range(len(labels)))


def test_samples_of_a_class_come_equally_often() -> None:
    labels = np.repeat([0, 1], [40, 8])
    drawn = np.concatenate([in_turns((labels,), 1, epoch) for epoch in range(10)])  # 24 of each class an epoch
    counts = np.bincount(drawn, minlength=48)
    assert set(counts[:40]) == {6}
    assert set(counts[40:]) == {30}


@given(sizes=st.lists(SIZES, min_size=2, max_size=3), batch_size=st.integers(1, 24))
def test_groups_within_groups_take_turns(sizes: list[list[int]], batch_size: int) -> None:
    domains = np.repeat(np.arange(len(sizes)), [sum(part) for part in sizes])
    labels = np.concatenate([np.repeat(np.arange(len(part)), part) for part in sizes])
    for batch in EpochSampler(len(labels), batch_size, groups=(domains, labels)):
        counts = np.bincount(domains[batch], minlength=len(sizes))
        assert counts.max() - counts.min() <= 1
        for domain, part in enumerate(sizes):
            of_class = np.bincount(labels[batch][domains[batch] == domain], minlength=len(part))
            assert of_class.max() - of_class.min() <= 1


def test_the_order_is_a_function_of_seed_and_epoch_of_the_stage() -> None:
    labels = labels_of([9, 5, 3])

    def order(seed: int, first_epoch: int, epoch: int) -> list[int]:
        sampler = EpochSampler(17, 5, seed, first_epoch, groups=(labels,))
        sampler.set_epoch(epoch)
        return np.concatenate(list(sampler)).tolist()

    assert order(0, 2, 1) == order(0, 0, 3)
    assert order(0, 0, 3) != order(0, 0, 4)
    assert order(0, 0, 3) != order(1, 0, 3)


def unbalanced(folder: Path) -> Domain:
    """Three classes of 16, 4 and 2 training images."""
    domain = tiny_domain(folder, batch_size=6, balanced=True)
    train = domain.datasets["train"]
    rows = torch.cat([(train.labels == label).nonzero()[:num, 0] for label, num in enumerate((16, 4, 2))])
    domain.datasets["train"] = type(train)(train.images, train.positions[rows], train.labels[rows])
    return domain


def test_a_balanced_domain_gives_such_batches_and_evaluates_on_all(tmp_path: Path) -> None:
    domain = unbalanced(tmp_path)
    assert [batch.y.bincount().max() for batch in domain.train_dataloader()] == [2, 2, 2, 2]
    assert sorted(torch.cat([batch.positions for batch in domain.loader("train")]).tolist()) == list(range(22))


def test_cached_features_come_in_the_domains_own_order(tmp_path: Path) -> None:
    domain = unbalanced(tmp_path)
    features = FeatureDomain(domain, {"train": (torch.zeros(22, 2),)}, cut=1)
    domain.begin(seed=5, first_epoch=1)
    features.begin(seed=5, first_epoch=1)
    both = [torch.cat([batch.positions for batch in data.train_dataloader()]) for data in (domain, features)]
    assert torch.equal(*both)
