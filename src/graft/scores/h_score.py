"""H-score: how much of the features' variation tells the classes apart."""

from torch import Tensor

from graft.models.heads.ridge import principal_axes
from graft.models.mappings.alignment import shrunk_covariance
from graft.scores.base import class_indices, class_means, double


def h_score(features: Tensor, labels: Tensor) -> float:
    """tr(C_f^-1 C_z) of the features' covariance C_f and that of their class means C_z, both shrunk; from 0 to k - 1.

    Bao et al., "An Information-Theoretic Approach to Transferability in Task Transfer Learning", ICIP 2019, equation 4,
    is k - 1 for pure noise once n < d. With the shrinkage a of Ledoit and Wolf (2004),
    tr(((1 - a) C_f + a tr(C_f) / d I)^-1 (1 - a) C_z) does not suffer from that (Ibrahim et al., "Newer is not always
    better: Rethinking transferability metrics, their peculiarities, stability and performance", ECML PKDD 2022,
    section 4). Covariances divide by n. Features that do not vary score 0.

    Args:
        features: [n, d].
        labels: class indices [n].

    Raises:
        UserError: fewer than two classes, or features that are not finite.
    """
    x = double(features)
    indices, num_classes = class_indices(labels)
    x = x - x.mean(0)
    _, shrinkage = shrunk_covariance(x)
    axes = principal_axes(x)  # in them C_f is diagonal; what lies outside them is no part of C_z
    variances = axes.squares / len(x)
    shrunk = shrinkage * variances.sum() / x.shape[1] + (1 - shrinkage) * variances
    means, counts = class_means(axes.scores, indices, num_classes)
    between = (counts[:, None] * means.square()).sum(0) / len(x)  # [r], the diagonal of C_z
    return float(((1 - shrinkage) * between / shrunk).sum())
