"""Logistic regression on MFCCs: what sounds in class folders can be told apart by without a network.

  python scripts/baselines/mfcc.py ~/spoken_digits --domain theo --labels 1 3 5 10 20 all --seeds 0 1 2

Splits and label budgets are those of `target=audio_folder` with `target.split_seed` set to the seed. Of each sound, of
whatever length it is: 20 cepstral coefficients of 40 mel bands every 10 ms, and of each coefficient either mean and
deviation over time (`mean_std`, 40 numbers) or its mean in each tenth of the sound (`tenths`, 200 numbers),
standardised by the training sounds.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.fft import dct
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from graft.data.class_folders import ClassFolders
from graft.data.readers.audio_folder import SOUNDS
from graft.data.splits import SplitRules, split_samples
from graft.data.waveforms import read_sound, resampled

BANDS, COEFFICIENTS, PARTS = 40, 20, 10
WINDOW, STEP = 0.025, 0.010  # seconds


def main() -> None:
    options = parser().parse_args()
    splits, class_names = ClassFolders(options.path, options.domain, SOUNDS).list_files()
    paths, labels = splits["train"].samples, splits["train"].labels
    coefficients = [mfcc(path, options.sample_rate) for path in paths]
    for name, summary in (("mean_std", mean_and_deviation), ("tenths", tenths)):
        features = np.stack([summary(found) for found in coefficients])
        for budget in options.labels:
            accuracies = [
                accuracy(features, labels, class_names, rules(budget, seed, options)) for seed in options.seeds
            ]
            spread = np.std(accuracies, ddof=1) if len(accuracies) > 1 else 0.0
            each = ", ".join(f"{100 * value:.1f}" for value in accuracies)
            print(
                f"{name:<9} {budget or 'all':>4} labels a class: {100 * np.mean(accuracies):.1f} ± "
                f"{100 * spread:.1f} %  ({each})"
            )


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = result.add_argument
    option("path", type=Path, help="folder of class folders, or of domain folders with class folders in them")
    option("--domain", nargs="+", help="which domain folders")
    option("--labels", nargs="+", type=budget_of, default=[None], metavar="N|all", help="labels a class")
    option("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of splits and budgets")
    option("--sample-rate", type=int, default=8000, help="Hz")
    option("--test-fraction", type=float, default=0.2)
    option("--val-fraction", type=float, default=0.1)
    return result


def budget_of(text: str) -> int | None:
    return None if text == "all" else int(text)


def rules(budget: int | None, seed: int, options: argparse.Namespace) -> SplitRules:
    return SplitRules(budget, None, options.val_fraction, options.test_fraction, seed)


def accuracy(features: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], rules: SplitRules) -> float:
    """On the test split, trained on the label budget."""
    parts = split_samples(labels, class_names, rules, hold_out_val=True, hold_out_test=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(features[parts.train], labels[parts.train])
    return float(model.score(features[parts.test], labels[parts.test]))


def mfcc(path: Path, rate: int) -> np.ndarray:
    """Cepstral coefficients [frames, COEFFICIENTS] of a file."""
    waveform = resampled(*read_sound(path), rate)
    window, step = round(WINDOW * rate), round(STEP * rate)
    waveform = np.pad(waveform, (0, max(0, window - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, window)[::step]
    power = np.abs(np.fft.rfft(frames * np.hamming(window), n=512)) ** 2
    energies = np.log(np.maximum(power @ mel_filters(rate), 1e-10))
    coefficients: np.ndarray = dct(energies, type=2, norm="ortho", axis=1)[:, :COEFFICIENTS]
    return coefficients


def mel_filters(rate: int) -> np.ndarray:
    """Triangles [257, BANDS] equally spaced in HTK mel."""
    mels = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), BANDS + 2)
    left, peak, right = (700 * (10 ** (mels / 2595) - 1)[i : BANDS + i] for i in range(3))
    frequencies = np.fft.rfftfreq(512, 1 / rate)[:, None]
    return np.clip(np.minimum((frequencies - left) / (peak - left), (right - frequencies) / (right - peak)), 0, None)


def mean_and_deviation(coefficients: np.ndarray) -> np.ndarray:
    return np.concatenate([coefficients.mean(0), coefficients.std(0)])


def tenths(coefficients: np.ndarray) -> np.ndarray:
    bounds = np.linspace(0, len(coefficients), PARTS + 1)
    parts = [coefficients[int(a) : max(int(np.ceil(b)), int(a) + 1)] for a, b in pairwise(bounds)]
    return np.concatenate([part.mean(0) for part in parts])


if __name__ == "__main__":
    main()
