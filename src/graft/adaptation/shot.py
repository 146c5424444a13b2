"""SHOT: information maximisation, and cross-entropy on pseudo-labels from class centroids."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot, softmax

from graft.adaptation.base import SPREADS, Adaptation
from graft.adaptation.shot_im import information_maximisation
from graft.batch import in_dtype
from graft.data.domain import Domain
from graft.features import FeatureDomain, Inference, in_eval_mode
from graft.models.network import Network
from graft.regularisers.base import Beginning, Step, Term, check_weights, full_precision


def centroid_labels(features: Tensor, p: Tensor) -> Tensor:
    """The class [n] whose centroid is closest in cosine distance to each of the features [n, d].

    Liang et al., "Do we really need to access the source data?", ICML 2020, equations 4 to 6: centroids are means
    weighted by the probabilities p [n, k], and once more by the labels that those give. A class that no sample is
    labelled with is no candidate the second time.
    """
    labels = _closest(features, p)
    return _closest(features, one_hot(labels, p.shape[1]).to(p.dtype))


def _closest(features: Tensor, weights: Tensor) -> Tensor:
    """The class [n] of the centroid, under weights [n, k], that is closest to each of the features [n, d]."""
    centroids = normalize(weights.T @ features, dim=1)  # a sum points where a mean does
    similarity = features @ centroids.T  # the length of a feature does not change which is closest
    return similarity.masked_fill(weights.sum(dim=0) == 0, -torch.inf).argmax(dim=1)


def with_one(features: Tensor) -> Tensor:
    """Features [n, d] with a 1 appended, in float32 at least: [n, d + 1]."""
    features = full_precision(features)
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)


@dataclass(frozen=True)
class SHOT(Adaptation):
    """SHOT-IM with pseudo-labels.

    As in the paper, the network in eval mode gives all images labels at the beginning of each epoch of the target. As
    in the authors' published code, a 1 is appended to features, which are normalised. The paper keeps the head of the
    source as it is: strategy=freeze_head.

    Args:
        weight, gamma: of the sum of both terms.
        pseudo_weight: of the cross-entropy on pseudo-labels.
    """

    closed_set: ClassVar[str] = SPREADS
    source_free: ClassVar[bool] = True

    pseudo_weight: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(pseudo_weight=self.pseudo_weight)

    def begin(self, beginning: Beginning) -> Term:
        """Without labels; the first step makes them."""
        target = beginning.required_target()
        return _SHOTTerm(self, len(target.pool), beginning.kept_target or target, beginning.how)


class _SHOTTerm(Term):
    def __init__(self, settings: SHOT, num_samples: int, target: Domain | FeatureDomain, how: Inference) -> None:
        super().__init__()
        self.settings = settings
        self.target = target
        self.how = how
        self.register_buffer("labels", torch.zeros(num_samples, dtype=torch.int64))
        # Images that all processes together have seen since the labels were made
        self.register_buffer("num_passed", torch.tensor(num_samples))
        self.labels: Tensor
        self.num_passed: Tensor

    def forward(self, step: Step) -> Tensor:
        target = step.required_target()
        if self.num_passed >= len(self.labels):
            self._label(step.network)
        self.num_passed += len(target.positions) * step.num_processes
        logits = full_precision(target.outputs.logits)
        pseudo = cross_entropy(logits, self.labels[target.positions])
        total = information_maximisation(logits) + self.settings.pseudo_weight * pseudo
        return self.settings.ramp(step.progress) * total

    @torch.no_grad()
    def _label(self, network: Network) -> None:
        """Labels for all images, from what the network makes of them as it is."""
        positions, features, p = [], [], []
        cut = self.target.cut if isinstance(self.target, FeatureDomain) else 0
        with in_eval_mode(network, self.how.device):
            for batch in self.target.unlabelled_loader("train", shuffle=False, shared=False):
                x = in_dtype(self.target.view.evaluate(batch.x.to(self.how.device)), network.dtype)
                with self.how.context():
                    found = network.features(x, cut)
                    logits = network.head(found)
                positions.append(batch.positions)
                features.append(normalize(with_one(found), dim=1))
                p.append(softmax(full_precision(logits), dim=1))
        self.labels[torch.cat(positions)] = centroid_labels(torch.cat(features), torch.cat(p)).to(self.labels.device)
        self.num_passed.zero_()
