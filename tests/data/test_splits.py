import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.data.splits import SplitRules, hold_out_counts, split_samples
from graft.errors import UserError

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=120).map(np.array)
SHARES = st.floats(0, 0.9)
NAMES = tuple("abcde")


def counts(labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels, minlength=len(NAMES))


@given(labels=LABELS, val=SHARES, test=SHARES, seed=st.integers(0, 5))
def test_every_sample_is_in_exactly_one_part(labels: np.ndarray, val: float, test: float, seed: int) -> None:
    split = split_samples(labels, NAMES, SplitRules(val_fraction=val, test_fraction=test, seed=seed), True, True)
    parts = np.concatenate([split.train, split.val, split.test])
    assert sorted(parts) == list(range(len(labels)))
    assert np.array_equal(split.train, split.pool)
    for part in (split.train, split.val, split.test):
        assert np.array_equal(part, np.sort(part))


@given(sizes=st.lists(st.integers(2, 60), min_size=1, max_size=8).map(np.array), fraction=SHARES)
def test_held_out_samples_are_stratified_and_as_many_as_asked_for(sizes: np.ndarray, fraction: float) -> None:
    held = hold_out_counts(sizes, fraction)
    assert np.all(np.abs(held - sizes * fraction) <= 1 + 1e-9)
    assert np.all(held < sizes)
    kept_back = np.ceil(sizes * fraction - 1e-9) >= sizes  # classes that give less so as to keep one sample
    if not kept_back.any():
        assert held.sum() == round(float((sizes * fraction).sum()))


@given(labels=LABELS, small=st.integers(1, 4), more=st.integers(0, 4), val=SHARES, seed=st.integers(0, 5))
def test_label_budgets_are_exact_and_nested(labels: np.ndarray, small: int, more: int, val: float, seed: int) -> None:
    names = NAMES[: labels.max() + 1]
    pool = split_samples(labels, names, SplitRules(val_fraction=val, seed=seed), True, False).pool
    smallest = np.bincount(labels[pool], minlength=len(names)).min()
    rules = [SplitRules(labels_per_class=n, val_fraction=val, seed=seed) for n in (small, small + more)]
    if small + more > smallest:
        with pytest.raises(UserError, match="labels_per_class"):
            split_samples(labels, names, rules[1], True, False)
        return
    few, many = (split_samples(labels, names, rule, True, False) for rule in rules)
    assert set(np.bincount(labels[few.train], minlength=len(names))) == {small}
    assert set(few.train) <= set(many.train) <= set(many.pool)
    assert np.array_equal(few.val, many.val)


@given(labels=LABELS, a=st.floats(0.01, 1), b=st.floats(0.01, 1))
def test_fractions_are_stratified_and_nested(labels: np.ndarray, a: float, b: float) -> None:
    parts = [split_samples(labels, NAMES, SplitRules(fraction=share), True, False) for share in sorted((a, b))]
    assert set(parts[0].train) <= set(parts[1].train)
    for share, part in zip(sorted((a, b)), parts, strict=True):
        sizes, kept = counts(labels[part.pool]), counts(labels[part.train])
        assert np.all(np.abs(kept - sizes * share) <= np.where(sizes * share < 0.5, 1, 0.5))
        assert np.all((kept > 0) == (sizes > 0))


@settings(max_examples=20)
@given(labels=LABELS, global_seed=st.integers(0, 2**32 - 1))
def test_splits_depend_on_their_own_seed_alone(labels: np.ndarray, global_seed: int) -> None:
    rules = SplitRules(fraction=0.5, seed=1)
    first = split_samples(labels, NAMES, rules, True, True)
    np.random.seed(global_seed)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    again = split_samples(labels, NAMES, rules, True, True)
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in ("train", "pool", "val", "test"))


def test_another_seed_splits_otherwise() -> None:
    labels = np.repeat(np.arange(5), 20)
    one, other = (split_samples(labels, NAMES, SplitRules(seed=seed), True, True) for seed in (0, 1))
    assert not np.array_equal(one.test, other.test)


def test_a_class_does_not_change_with_the_others() -> None:
    labels = np.repeat([0, 1], 20)
    more = np.concatenate([labels, np.full(7, 2)])
    alone = split_samples(labels, NAMES[:2], SplitRules(labels_per_class=5), True, False).train
    together = split_samples(more, NAMES[:3], SplitRules(labels_per_class=5), True, False).train
    assert np.array_equal(alone, together[together < 40])


def test_too_many_labels_per_class_names_the_class_and_what_it_has() -> None:
    labels = np.array([0] * 9 + [1] * 4)
    with pytest.raises(UserError, match=r"labels_per_class=5: class 'bee' has 4 training samples"):
        split_samples(labels, ("ant", "bee"), SplitRules(labels_per_class=5), False, False)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"labels_per_class": 5, "fraction": 0.5}, "labels_per_class=5 and fraction=0.5"),
        ({"labels_per_class": 0}, "labels_per_class=0"),
        ({"fraction": 1.5}, "fraction=1.5"),
        ({"fraction": 0.0}, "fraction=0.0"),
        ({"val_fraction": 1.0}, "val_fraction=1.0"),
        ({"test_fraction": -0.1}, "test_fraction=-0.1"),
    ],
)
def test_rules_that_make_no_sense_are_refused(settings: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=named):
        SplitRules(**settings)  # type: ignore[arg-type]
