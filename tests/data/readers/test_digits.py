import numpy as np
from sklearn.datasets import load_digits

from graft.data.readers.digits import Digits


def test_all_digits_in_full_range() -> None:
    raw = Digits().read()
    assert isinstance(raw.train.samples, np.ndarray)
    assert raw.train.samples.shape == (1797, 8, 8)
    assert raw.train.samples.dtype == np.uint8
    assert (raw.train.samples.min(), raw.train.samples.max()) == (0, 255)
    assert np.bincount(raw.train.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert raw.class_names == tuple("0123456789")
    assert raw.test is None


def test_equal_to_what_scikit_learn_reads() -> None:
    expected, raw = load_digits(), Digits().read()
    np.testing.assert_array_equal(raw.train.samples, np.rint(expected.images * 255 / 16))
    np.testing.assert_array_equal(raw.train.labels, expected.target)
