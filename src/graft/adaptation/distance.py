"""How far apart two domains lie, by how well a linear classifier tells their features apart."""

import torch
from torch import Tensor

from graft.probes import folds_of, logistic_path

STRENGTH = 0.01  # of the domain classifier's weight penalty, on features of variance 1
TOLERANCE = 1e-4  # of its gradient
NUM_FOLDS = 2


def a_distance(source: Tensor, target: Tensor) -> float | None:
    """Proxy A-distance 2 (1 - 2 e) of features [n_s, d] and [n_t, d]; None where they are not finite or too few.

    Ben-David et al., "Analysis of representations for domain adaptation", NIPS 2006, section 4. e is the error of a
    logistic regression on samples that it has not seen, one for each half: the mean of both domains' errors. 2: they
    are always told apart; 0: never; by chance a little below 0.
    """
    features = torch.cat([source, target]).double()
    if min(len(source), len(target)) < NUM_FOLDS or not features.isfinite().all():
        return None
    features = (features - features.mean(dim=0)) / features.std(dim=0).clamp(min=1e-12)
    domains = torch.tensor([0, 1]).repeat_interleave(torch.tensor([len(source), len(target)]))
    folds = folds_of(domains, NUM_FOLDS)
    wrong = features.new_zeros(len(features))
    for fold in range(NUM_FOLDS):
        out = folds == fold
        head = logistic_path(features[~out], domains[~out], 2, (STRENGTH,), TOLERANCE)
        wrong[out] = (head.logits(features[out])[0].argmax(dim=1) != domains[out]).double()
    error = (wrong[domains == 0].mean() + wrong[domains == 1].mean()) / 2
    return 2.0 * (1.0 - 2.0 * float(error))
