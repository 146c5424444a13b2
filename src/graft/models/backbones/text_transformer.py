"""A small transformer encoder that reads byte pairs, trained from scratch."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.data.texts import TextOverrides, TextPreprocessing
from graft.data.tokenizing import Subwords
from graft.errors import UserError
from graft.models.backbones.base import SequentialBackbone


class TextTransformer(SequentialBackbone):
    """An encoder of Vaswani et al. (NeurIPS 2017) with norms before each part, its outputs averaged over the tokens.

    Its layer groups are the embeddings (`stem`), each block, and the last norm with the mean (`pool`). The tokenizer is
    fitted on the training texts of the source, or of the target where there is no source.

    Args:
        vocabulary: the most pieces of the tokenizer.
        width: d, of every token's vector.
        depth: number of blocks.
        heads: of attention, which share the width.
        dropout: of embeddings and of what each part adds.
        size: the most tokens that are read of a text.

    Raises:
        UserError: numbers that do not go together.
    """

    def __init__(
        self,
        vocabulary: int = 4000,
        width: int = 128,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        size: int | None = None,
    ) -> None:
        for name, value in (("width", width), ("depth", depth), ("heads", heads)):
            if value < 1:
                raise UserError(f"backbone.{name}={value}: expected 1 or more")
        if width % heads:
            raise UserError(f"backbone.heads={heads}: expected a divisor of backbone.width={width}")
        preprocessing = TextPreprocessing(128, Subwords(vocabulary=vocabulary))
        overrides = TextOverrides(size)
        read = overrides.apply(preprocessing).size
        groups: dict[str, nn.Module] = {"stem": Embeddings(preprocessing.tokenizer.num_ids, read, width, dropout)}
        for name in (f"block{number}" for number in range(1, depth + 1)):
            groups[name] = nn.Sequential(OrderedDict({name: Block(width, heads, dropout)}))
        groups["pool"] = MaskedMean(width)
        super().__init__(groups, width, preprocessing, overrides)
        self.name = "text_transformer"


def with_mask(x: Tensor, mask: Tensor) -> Tensor:
    """Vectors [n, t, d] and whether each is of a token [n, t] as one tensor [n, t, d + 1].

    Layer groups hand one tensor on, which can be cached; 0 and 1 are the same in every floating-point type.
    """
    return torch.cat([x, mask.unsqueeze(-1).to(x.dtype)], dim=-1)


def without_mask(x: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors [n, t, d] and mask, boolean [n, t]."""
    return x[..., :-1], x[..., -1] > 0.5


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean [n, d] over the tokens of vectors [n, t, d]; 0 for a text without tokens."""
    weights = mask.unsqueeze(-1).to(x.dtype)
    return (x * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


class Embeddings(nn.Module):
    """Learnt vectors of tokens and of their places: int64 [n, t] -> [n, t, d + 1], the mask last."""

    def __init__(self, num_ids: int, size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(num_ids, width, padding_idx=0)
        self.places = nn.Parameter(torch.empty(size, width))
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            for weight in (self.tokens.weight, self.places):
                nn.init.normal_(weight, std=0.02)
            self.tokens.weight[0] = 0.0

    def forward(self, ids: Tensor) -> Tensor:
        """The sums."""
        return with_mask(self.dropout(self.tokens(ids) + self.places), ids != 0)


class Block(nn.Module):
    """Attention among the tokens of a text, then two linear layers for each: [n, t, d + 1] -> the same."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """The vectors after it, with the same mask."""
        x, mask = without_mask(x)
        x = x + self.dropout(self.out(self._attend(self.norm1(x), mask)))
        x = x + self.dropout(self.fc2(functional.gelu(self.fc1(self.norm2(x)))))
        return with_mask(x, mask)

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        num, size, width = x.shape
        q, k, v = self.qkv(x).view(num, size, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        # To a text without tokens everything attends alike; a row of nothing but masked places would be NaN.
        seen = mask | ~mask.any(dim=1, keepdim=True)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :])
        return mixed.transpose(1, 2).reshape(num, size, width)


class MaskedMean(nn.Module):
    """The last norm, and the mean over the tokens: [n, t, d + 1] -> [n, d]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """The means."""
        x, mask = without_mask(x)
        return masked_mean(self.norm(x), mask)
