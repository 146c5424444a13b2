"""What a network gets right on a split, computed outside training."""

from collections.abc import Iterable, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graft.batch import BatchView, LabelledBatch, in_dtype
from graft.data.domain import Domain
from graft.data.preprocessing import Inputs
from graft.data.threaded import in_order
from graft.features import FeatureCache, FeatureView, Inference, Prefix, batches_at_once, feature_loader
from graft.memory import Fitting
from graft.models.network import Network

BATCH_VALUES = 2**19  # a batch of fewer values, where samples are small, costs more in calls than in arithmetic
MOST_ERRORS, MOST_MISTAKEN = 5, 8  # pairs of classes whose errors are kept, and samples of each
ROWS_AT_ONCE = 2**14  # of features that go through mapping and head together


def predict(
    network: Network, loader: Iterable[LabelledBatch], view: BatchView, device: torch.device, cut: int = 0
) -> tuple[Tensor, Tensor]:
    """Logits [n, k] and labels [n] of every sample of `loader`, in float32 on the CPU; the network in eval mode.

    Samples are images, or what the backbone's first `cut` layer groups made of them.
    """
    network.to(device).eval()
    fitting = Fitting(partial(predict_logits, network, view, device, cut=cut))

    def work(batch: LabelledBatch) -> tuple[Tensor, Tensor]:
        return fitting(batch.x), batch.y

    logits, labels = zip(*in_order(work, loader, batches_at_once(device)), strict=True)
    return torch.cat(logits), torch.cat(labels)


@torch.no_grad()
def predict_logits(network: Network, view: BatchView, device: torch.device, x: Tensor, cut: int = 0) -> Tensor:
    """Logits float32 [n, k] on the CPU of canvases uint8 [n, c, canvas, canvas]; network in eval mode on the device.

    Instead of canvases, `x` may be what the backbone's first `cut` layer groups made of them.
    """
    logits: Tensor = network(in_dtype(view.evaluate(x.to(device)), network.dtype), cut)
    return logits.float().cpu()


def reliability(logits: Tensor, labels: Tensor, num_bins: int = 15) -> dict[str, list[Any]]:
    """`samples`, mean `confidence` and `accuracy` in equal-width bins of confidence, from low to high.

    `logits` is [n, k], `labels` [n]. Confidence is the probability of the predicted class. A bin without samples has
    None for both means. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, figure 1, with its 15 bins.
    """
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    bins = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    samples = torch.bincount(bins, minlength=num_bins).tolist()
    sums = [
        torch.zeros(num_bins, dtype=torch.float64).index_add_(0, bins, values.double()).tolist()
        for values in (confidence, predicted == labels)
    ]
    confidences, accuracies = (
        [total / num if num else None for total, num in zip(totals, samples, strict=True)] for totals in sums
    )
    return {"samples": samples, "confidence": confidences, "accuracy": accuracies}


def expected_calibration_error(bins: dict[str, list[Any]]) -> float:
    """Mean distance, in [0, 1], between confidence and accuracy over the bins of `reliability`, weighted by their size.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3.
    """
    filled = [row for row in zip(bins["samples"], bins["confidence"], bins["accuracy"], strict=True) if row[0]]
    return sum(num * abs(accuracy - confidence) for num, confidence, accuracy in filled) / sum(bins["samples"])


def brier_score(logits: Tensor, labels: Tensor) -> float:
    """Mean squared distance, in [0, 2], between the probabilities [n, k] and the labels [n] as one-hot vectors.

    Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 1950, equation 2.
    """
    probabilities = logits.softmax(dim=1)
    one_hot = nn.functional.one_hot(labels, logits.shape[1])
    return float((probabilities - one_hot).square().sum(dim=1).mean())


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts [k, k]: row is the label, column the predicted class."""
    num_classes = logits.shape[1]
    cells = labels * num_classes + logits.argmax(dim=1)
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def commonest_errors(confusion: Sequence[Sequence[int]], num: int) -> list[tuple[int, int]]:
    """(label, predicted) of the `num` largest errors in a confusion matrix [k, k] with labels as rows, most first."""
    errors = np.array(confusion)
    np.fill_diagonal(errors, 0)
    places = np.argsort(-errors, axis=None, kind="stable")[:num]
    return [divmod(int(place), len(errors)) for place in places if errors.flat[place]]


def mistaken_samples(logits: Tensor, labels: Tensor, confusion: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """For each of the commonest errors its label, what was predicted, and the first samples of it by their position."""
    predicted = logits.argmax(dim=1)
    return [
        {
            "label": label,
            "predicted": column,
            "positions": ((labels == label) & (predicted == column)).nonzero().flatten()[:MOST_MISTAKEN].tolist(),
        }
        for label, column in commonest_errors(confusion, MOST_ERRORS)
    ]


def scores(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy; loss (mean negative log-likelihood), calibration error and Brier score, with the bins of `reliability`;
    accuracy by class (None where a class has no sample), confusion matrix, and samples of its commonest errors.
    """
    confusion = confusion_matrix(logits, labels)
    counts, totals = confusion.tolist(), confusion.sum(dim=1)
    by_class = [int(hit) / int(total) if total else None for hit, total in zip(confusion.diag(), totals, strict=True)]
    bins = reliability(logits, labels)
    return {
        "accuracy": int(confusion.diag().sum()) / len(labels),
        "loss": float(nn.functional.cross_entropy(logits, labels)),
        "calibration_error": expected_calibration_error(bins),
        "brier_score": brier_score(logits, labels),
        "reliability": bins,
        "accuracy_by_class": by_class,
        "confusion": counts,
        "mistaken": mistaken_samples(logits, labels, counts),
    }


def evaluate(
    network: Network,
    domain: Domain,
    split: str,
    device: torch.device,
    cache: FeatureCache | None = None,
    memory_format: str = "contiguous",
) -> dict[str, Any]:
    """The scores of `network`, whose weights have this memory format, on one split of `domain`.

    With a cache, what the backbone makes of the images is kept there for whoever else scores a network on this
    backbone. It is computed in the same batches as without, so the scores are the same to the last bit.
    """
    if cache is not None:
        batch_size, whole = evaluation_batch_size(domain), Prefix.whole(network.backbone)
        how = Inference(device, network.dtype, memory_format=memory_format, batch_size=batch_size)
        kept = cache.get(whole, domain, [split], how)
        if kept is not None:
            loader = feature_loader(kept[split][0], domain.datasets[split].labels, batch_size)
            return scores(*predict(network, loader, FeatureView(), device, whole.cut))
    return scores(*predict(network, evaluation_loader(domain, split), domain.view, device))


def evaluation_loader(domain: Domain, split: str) -> Iterable[LabelledBatch]:
    """All samples of a split in order, in batches that pay."""
    return domain.loader(split, batch_size=evaluation_batch_size(domain))


def evaluation_batch_size(domain: Domain) -> int:
    """The domain's own, or more where samples are small."""
    assert domain.preprocessing is not None
    return paying_batch_size(domain.preprocessing, domain.batch_size)


def paying_batch_size(preprocessing: Inputs, least: int) -> int:
    """`least`, or more where samples are small."""
    return max(least, BATCH_VALUES // prod(preprocessing.shape))
