"""Scores that rank networks or epochs without any label of the target; of each, higher is better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, normalize, softmax

from graft.adaptation.bnm import nuclear_norm
from graft.adaptation.entropy import entropies
from graft.adaptation.shot_im import information_maximisation
from graft.models.heads.ridge import RidgeHead
from graft.probes import folds_of

OF_TARGET = ("entropy", "information", "density", "bnm")  # scores that look at the target alone
OF_SOURCE = ("source_val", "importance_weighted", "dev", "reverse_validation")  # ... at labels of the source too
LABEL_FREE = (*OF_TARGET, *OF_SOURCE)
PREFIX = "selection/"  # of scores in a stage's history

COLLAPSED = 0.99  # share of the target given one class from which on nothing that a score says counts
MOST_AXES = 64  # of the features that a classifier is fitted to; an epoch is over sooner than one on thousands
NUM_FOLDS = 2
STRENGTHS = (1.0, 0.1, 0.01)  # of the domain classifier's weight penalty
TOLERANCE = 1e-8  # of its gradient
MAX_STEPS, MAX_HALVINGS = 100, 30  # of Newton's method
ROWS_AT_ONCE = 256  # samples whose similarities to all others are held together


@dataclass(frozen=True)
class Selection:
    """Which epoch gives a run's headline figures, and which choices are shown beside it.

    Args:
        rule: "last", "best_val", or one of `LABEL_FREE`.
        images: the most of the target's training and of the source's validation images that scores look at; 0: none.
        every: epochs from one candidate to the next; the last of each phase is one too.
        oracle: whether to show the best epoch by the labels of the target's test split, which is no result.
    """

    rule: str = "last"
    images: int = 0
    every: int = 1
    oracle: bool = False


class Best(NamedTuple):
    """What a rule chose among a stage's epochs."""

    epoch: int | None  # None where the predictor had collapsed in every candidate
    score: float


class Evidence(NamedTuple):
    """What a network makes, in eval mode, of images of the target and of held-out images of the source; on the CPU."""

    target_logits: Tensor  # [n_t, k]
    target_features: Tensor  # [n_t, d]
    source_logits: Tensor  # [n_s, k]
    source_features: Tensor  # [n_s, d]
    source_y: Tensor  # [n_s] class indices


def label_free_scores(evidence: Evidence) -> dict[str, float]:
    """Every score of `LABEL_FREE` by its name; those of `OF_SOURCE` only where there are two images of it or more.

    All are minus infinity where the predictor has collapsed, or gives what is no finite number.
    """
    with_source = len(evidence.source_y) > 1
    if not all(tensor.isfinite().all() for tensor in evidence) or is_collapsed(evidence.target_logits):
        return dict.fromkeys(LABEL_FREE if with_source else OF_TARGET, float("-inf"))
    scores = target_scores(evidence) | (source_scores(evidence) if with_source else {})
    return {name: float(score) for name, score in scores.items()}


def best_epochs(history: Sequence[Mapping[str, Any]]) -> dict[str, Best]:
    """What each rule chooses among the epochs of a history: the first with the highest score.

    Rows of epochs that are no candidates have no scores; rules that nothing was scored by are left out.
    """
    found = {}
    for name in LABEL_FREE:
        rows = [row for row in history if PREFIX + name in row]
        if rows:
            best = max(rows, key=lambda row: row[PREFIX + name])
            score = best[PREFIX + name]
            found[name] = Best(None if score == float("-inf") else best["epoch"], score)
    return found


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
    """Those that count errors on the source: as they are, weighted by likeness to the target, or in reverse."""
    logits, y = evidence.source_logits, evidence.source_y
    source, target = leading_axes(evidence.source_features, evidence.target_features)
    weights = importance_weights(source, target)
    return {
        "source_val": 1.0 - errors(logits, y).mean(),
        "importance_weighted": -importance_weighted_risk(logits, y, weights),
        "dev": -deep_embedded_risk(logits, y, weights),
        "reverse_validation": reverse_accuracy(source, y, target, evidence.target_logits),
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


def leading_axes(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Features [n_s, d] and [n_t, d] of both domains in at most `MOST_AXES` of their common principal axes, float64.

    As they are where d is no larger. The axes are found by two rounds of subspace iteration from the same start at
    every call (Halko et al., "Finding structure with randomness", SIAM Review 2011, algorithm 4.4).
    """
    features = torch.cat([source, target])
    if features.shape[1] <= MOST_AXES:
        return source.double(), target.double()
    centred = features.float() - features.float().mean(dim=0)
    axes = torch.randn(features.shape[1], MOST_AXES, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        axes, _ = torch.linalg.qr(centred.T @ (centred @ axes))
    reduced = (centred @ axes).double()
    return reduced[: len(source)], reduced[len(source) :]


def importance_weights(source: Tensor, target: Tensor) -> Tensor:
    """p_target(f) / p_source(f) [n_s] at features f of the source [n_s, d], given those of the target [n_t, d].

    Bickel et al., "Discriminative learning for differing training and test distributions", ICML 2007: the odds of a
    domain classifier times n_s / n_t. It is a logistic regression that has not seen the sample, one for each half,
    with the strength of least cross-entropy over all samples held out.
    """
    features = torch.cat([source, target]).double()
    features = features / features.std(dim=0).mean().clamp(min=1e-12)
    domains = torch.tensor([0, 1]).repeat_interleave(torch.tensor([len(source), len(target)]))
    folds = folds_of(domains, NUM_FOLDS)
    held_out = features.new_zeros(len(STRENGTHS), len(features))  # log odds
    for fold in range(NUM_FOLDS):
        out = folds == fold
        coefficients = logistic_regressions(features[~out], domains[~out].double(), STRENGTHS)
        held_out[:, out] = coefficients[:, :-1] @ features[out].T + coefficients[:, -1:]
    losses = torch.stack([binary_cross_entropy_with_logits(odds, domains.double()) for odds in held_out])
    return held_out[losses.argmin(), : len(source)].exp() * len(source) / len(target)


def logistic_regressions(features: Tensor, y: Tensor, strengths: Sequence[float]) -> Tensor:
    """Coefficients [s, d + 1], the intercept last, that minimise mean log loss + strength / 2 ||w||^2.

    Newton's method with halved steps (Boyd and Vandenberghe, "Convex optimization", 2004, algorithm 9.5), for each of
    s strengths, from the largest to the smallest, each from the solution before it. On few axes it takes a sixth of the
    time of `probes.logistic_path`. Features [n, d] and labels [n], 0 or 1, are in float64.
    """
    x = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
    coefficients, solved = x.new_zeros(x.shape[1]), []
    for strength in strengths:
        penalty = torch.full_like(coefficients, strength)
        penalty[-1] = 0.0
        for _ in range(MAX_STEPS):
            p = (x @ coefficients).sigmoid()
            gradient = x.T @ (p - y) / len(x) + penalty * coefficients
            if gradient.abs().max() < TOLERANCE:
                break
            hessian = (x.T * (p * (1.0 - p))) @ x / len(x) + penalty.diag()
            coefficients = _descended(x, y, penalty, coefficients, torch.linalg.solve(hessian, gradient))
        solved.append(coefficients)
    return torch.stack(solved)


def _descended(x: Tensor, y: Tensor, penalty: Tensor, start: Tensor, step: Tensor) -> Tensor:
    """`start` minus the step, halved until the loss is no higher than before."""

    def loss(coefficients: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(x @ coefficients, y) + (penalty * coefficients.square()).sum() / 2

    before = loss(start)
    for _ in range(MAX_HALVINGS):
        if loss(start - step) <= before:
            return start - step
        step = step / 2
    return start


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


def reverse_accuracy(source: Tensor, y: Tensor, target: Tensor, target_logits: Tensor) -> Tensor:
    """Accuracy, a scalar, on the source of a classifier that knows the target's images and their predictions alone.

    Reverse validation (Zhong et al., "Cross validation framework to choose amongst models and data sets for transfer
    learning", ECML PKDD 2010; Ganin et al., "Domain-adversarial training of neural networks", JMLR 2016, section 5),
    with the features as they are: the reverse classifier is a head solved by ridge regression (`RidgeHead`) on target
    features [n_t, d] with the labels that the logits [n_t, k] say, and is tried on source features [n_s, d] with
    labels [n_s].
    """
    head = RidgeHead(target.shape[1], target_logits.shape[1]).double()
    head.solve(target, target_logits.argmax(dim=1))
    return 1.0 - errors(head(source), y).mean()
