"""The sum of learnt vectors of a text's words and word pairs."""

import torch
from torch import Tensor, nn

from graft.data.texts import TextOverrides, TextPreprocessing
from graft.data.tokenizing import HashedNgrams
from graft.errors import UserError
from graft.models.backbones.base import SequentialBackbone


class BagOfNgrams(SequentialBackbone):
    """Hashed words and runs of words, each with a vector, added up: fastText (Joulin et al., EACL 2017, section 2).

    Unlike there, each n-gram counts once however often it comes, and the sum is divided by the root of their number,
    not by the number: means of long texts are so near 0 that a few steps of training move them little. A hidden layer
    with ReLU follows where `hidden` is above 0.

    Args:
        buckets: b, how many vectors the n-grams share.
        longest_run: words of the longest n-gram.
        width: of the vectors.
        hidden: of the layer after the sum, whose outputs are the features; 0 for none.
        size: the most n-grams that are read of a text.

    Raises:
        UserError: a number that is too small.
    """

    def __init__(
        self,
        buckets: int = 2**17,
        longest_run: int = 2,
        width: int = 16,
        hidden: int = 0,
        size: int | None = None,
    ) -> None:
        for name, value, least in (
            *(("buckets", buckets, 2), ("longest_run", longest_run, 1), ("width", width, 1), ("hidden", hidden, 0)),
        ):
            if value < least:
                raise UserError(f"backbone.{name}={value}: expected {least} or more")
        groups: dict[str, nn.Module] = {"stem": SummedVectors(buckets + 1, width)}
        if hidden:
            groups["stage1"] = nn.Sequential(nn.Linear(width, hidden), nn.ReLU())
        super().__init__(
            groups,
            num_features=hidden or width,
            preprocessing=TextPreprocessing(512, HashedNgrams(buckets, longest_run)),
            overrides=TextOverrides(size),
        )
        self.name = "bag_of_ngrams"


class SummedVectors(nn.Module):
    """Token ids int64 [n, t], 0 for none, to the sum of their vectors over the root of their number, [n, d]."""

    def __init__(self, num_ids: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(num_ids, width, padding_idx=0)
        with torch.no_grad():
            bound = 1 / width  # as in fastText's own code
            self.vectors.weight.uniform_(-bound, bound)
            self.vectors.weight[0] = 0.0

    def forward(self, ids: Tensor) -> Tensor:
        """The scaled sums; 0 for a text without tokens."""
        vectors: Tensor = self.vectors(ids)
        counts = (ids != 0).sum(dim=1, keepdim=True).clamp(min=1)
        return vectors.sum(dim=1) / counts.to(vectors.dtype).sqrt()
