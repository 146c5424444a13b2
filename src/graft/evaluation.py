"""What a network gets right on a split, computed outside training."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from graft.batch import BatchView, LabelledBatch
from graft.data.domain import Domain
from graft.models.network import Network


@torch.no_grad()
def predict(
    network: Network, loader: Iterable[LabelledBatch], view: BatchView, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Logits [n, k] and labels [n] of every sample of `loader`, in float32 on the CPU; the network in eval mode."""
    network.to(device).eval()
    inputs = ((view.evaluate(batch.x.to(device)).to(network.dtype), batch.y) for batch in loader)
    rows = [(network(x).float().cpu(), y) for x, y in inputs]
    logits, labels = zip(*rows, strict=True)
    return torch.cat(logits), torch.cat(labels)


def expected_calibration_error(logits: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over equal-width bins of confidence, weighted by their size.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3, with its 15 bins.
    `logits` is [n, k], `labels` [n]; the result lies in [0, 1].
    """
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    correct = (predicted == labels).float()
    bins = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    gaps = torch.zeros(num_bins).index_add_(0, bins, correct - confidence)
    return float(gaps.abs().sum() / len(labels))


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts [k, k]: row is the label, column the predicted class."""
    num_classes = logits.shape[1]
    cells = labels * num_classes + logits.argmax(dim=1)
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Accuracy, loss, calibration error, accuracy by class (None where a class has no sample) and confusion matrix."""
    confusion = confusion_matrix(logits, labels)
    totals = confusion.sum(dim=1)
    by_class = [int(hit) / int(total) if total else None for hit, total in zip(confusion.diag(), totals, strict=True)]
    return {
        "accuracy": int(confusion.diag().sum()) / len(labels),
        "loss": float(nn.functional.cross_entropy(logits, labels)),
        "calibration_error": expected_calibration_error(logits, labels),
        "accuracy_by_class": by_class,
        "confusion": confusion.tolist(),
    }


def evaluate(network: Network, domain: Domain, split: str, device: torch.device) -> dict[str, Any]:
    """The scores of `network` on one split of `domain`."""
    return scores(*predict(network, domain.loader(split), domain.view, device))
