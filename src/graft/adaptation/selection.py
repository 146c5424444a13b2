"""Scores that rank networks or epochs without any label of the target; of each, higher is better."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, softmax

from graft.adaptation.bnm import nuclear_norm
from graft.adaptation.entropy import entropies
from graft.adaptation.shot_im import information_maximisation
from graft.probes import folds_of, logistic_path

COLLAPSED = 0.99  # share of the target given one class from which on nothing that a score says counts
NUM_FOLDS = 5
STRENGTHS = (1.0, 0.1, 0.01, 1e-3, 1e-4)  # of the domain classifier's weight penalty
TOLERANCE = 1e-6  # of its gradient
ROWS_AT_ONCE = 256  # samples whose similarities to all others are held together


class Evidence(NamedTuple):
    """What a network makes, in eval mode, of images of the target and of held-out images of the source; on the CPU."""

    target_logits: Tensor  # [n_t, k]
    target_features: Tensor  # [n_t, d]
    source_logits: Tensor  # [n_s, k]
    source_features: Tensor  # [n_s, d]
    source_y: Tensor  # [n_s] class indices


def label_free_scores(evidence: Evidence) -> dict[str, float]:
    """Every score of this module by its name, all of them minus infinity where the predictor has collapsed.

    Those that look at images of the source are left out where there are fewer than two.
    """
    scores = target_scores(evidence)
    if len(evidence.source_y) > 1:
        scores |= source_scores(evidence)
    collapsed = is_collapsed(evidence.target_logits)
    return {name: float("-inf") if collapsed else float(score) for name, score in scores.items()}


def target_scores(evidence: Evidence) -> dict[str, Tensor]:
    """Those that look at the predictions on the target alone."""
    logits = evidence.target_logits
    return {
        "entropy": -entropies(logits).mean(),
        "information": -information_maximisation(logits),
        "density": soft_neighbourhood_density(logits),
        "bnm": nuclear_norm(logits),
    }


def source_scores(evidence: Evidence) -> dict[str, Tensor]:
    """Those that count errors on the source, as they are or weighted by how like the target an image is."""
    logits, y = evidence.source_logits, evidence.source_y
    weights = importance_weights(evidence.source_features, evidence.target_features)
    return {
        "source_val": 1.0 - errors(logits, y).mean(),
        "importance_weighted": -importance_weighted_risk(logits, y, weights),
        "dev": -deep_embedded_risk(logits, y, weights),
    }


def is_collapsed(logits: Tensor) -> bool:
    """Whether 99 in 100 predictions or more, of logits [n, k], are of one class.

    Entropy and density are best for a predictor that gives every image the same class.
    """
    return int(logits.argmax(dim=1).bincount().max()) >= COLLAPSED * len(logits)


def errors(logits: Tensor, y: Tensor) -> Tensor:
    """1 where the largest of the logits [n, k] is not at the label [n], 0 elsewhere: [n] in float64."""
    return (logits.argmax(dim=1) != y).double()


def soft_neighbourhood_density(logits: Tensor, temperature: float = 0.05) -> Tensor:
    """Mean entropy, a scalar, of how similar each sample is to all others, by the predictions of logits [n, k].

    Saito et al., "Tune it the right way: unsupervised validation of domain adaptation via soft neighborhood density",
    ICCV 2021, section 3: a softmax of cosine similarities of probabilities over the temperature, without the
    sample itself.
    """
    directions = normalize(softmax(logits.double(), dim=1), dim=1)
    total = directions.new_zeros(())
    for rows in torch.arange(len(logits)).split(ROWS_AT_ONCE):
        similarity = directions[rows] @ directions.T / temperature
        others = torch.arange(len(logits)) != rows[:, None]
        total += entropies(similarity[others].view(len(rows), -1)).sum()
    return total / len(logits)


def importance_weights(source: Tensor, target: Tensor) -> Tensor:
    """p_target(f) / p_source(f) [n_s] at features f of the source [n_s, d], given those of the target [n_t, d].

    Bickel et al., "Discriminative learning for differing training and test distributions", ICML 2007: the odds of a
    domain classifier times n_s / n_t. It is a logistic regression that has not seen the sample, one for each fifth,
    with the strength of least cross-entropy over all samples held out.
    """
    features = torch.cat([source, target]).double()
    features = features / features.std(dim=0).mean().clamp(min=1e-12)
    domains = torch.tensor([0, 1]).repeat_interleave(torch.tensor([len(source), len(target)]))
    folds = folds_of(domains, NUM_FOLDS)
    held_out = features.new_zeros(len(STRENGTHS), len(features), 2)  # logits
    for fold in range(NUM_FOLDS):
        out = folds == fold
        heads = logistic_path(features[~out], domains[~out], 2, STRENGTHS, TOLERANCE)
        held_out[:, out] = heads.logits(features[out])
    losses = torch.stack([cross_entropy(logits, domains) for logits in held_out])
    logits = held_out[losses.argmin(), : len(source)]
    return (logits[:, 1] - logits[:, 0]).exp() * len(source) / len(target)


def importance_weighted_risk(logits: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Mean over n of weight [n] times error of logits [n, k] at labels [n], a scalar.

    It estimates the error on the target (Sugiyama et al., "Covariate shift adaptation by importance weighted cross
    validation", JMLR 2007).
    """
    return (weights * errors(logits, y)).mean()


def deep_embedded_risk(logits: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """The importance-weighted risk with the weights as a control variate, a scalar; arguments as there.

    You et al., "Towards accurate model selection in deep unsupervised domain adaptation", ICML 2019: mean of
    w e + eta mean of w - eta, eta = -Cov(w e, w) / Var(w), since weights have mean 1. Weights that do not vary
    control nothing, and eta is 0.
    """
    weighted = weights * errors(logits, y)
    covariance = torch.stack([weighted, weights]).cov()
    variance = covariance[1, 1]
    eta = -covariance[0, 1] / variance if variance > 0 else torch.zeros_like(variance)
    return weighted.mean() + eta * (weights.mean() - 1.0)
