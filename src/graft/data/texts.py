"""Texts for backbones that read them: stored as token ids of one length, seen whole or with tokens left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from graft.batch import LabelledBatch
from graft.data.canvas_cache import CanvasCache
from graft.data.images import Images, KeptImages
from graft.data.readers.base import RawSplit, Unreadable
from graft.data.tokenizing import Subwords, Tokenizer, tokenizer_from
from graft.errors import UserError

CHUNK = 1024  # texts split into tokens at once


@dataclass(frozen=True)
class TextPreprocessing:
    """Split into tokens, cut after `size` of them, pad with 0 up to as many."""

    modality: ClassVar[str] = "text"

    size: int  # tokens
    tokenizer: Tokenizer

    @property
    def shape(self) -> tuple[int]:
        """Tokens of what the backbone reads."""
        return (self.size,)

    @property
    def num_bytes(self) -> int:
        """Memory that one text takes."""
        return 4 * self.size

    def with_size(self, size: int) -> "TextPreprocessing":
        """The same for texts of another length."""
        return replace(self, size=size)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for records, fingerprints and metadata; the whole of a fitted tokenizer is among them."""
        return {"modality": self.modality, "size": self.size, "tokenizer": self.tokenizer.as_dict()}

    def blank(self, num: int) -> Tensor:
        """Token ids int64 [n, t] of texts of one token."""
        ids = torch.zeros(num, self.size, dtype=torch.int64)
        ids[:, 0] = 1
        return ids

    def noise(self, num: int) -> Tensor:
        """Random token ids int64 [n, t]."""
        return torch.randint(1, self.tokenizer.num_ids, (num, self.size))

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Token ids int32 [n, t] of texts."""
        ids = np.zeros((len(texts), self.size), np.int32)
        for start in range(0, len(texts), CHUNK):
            for row, found in enumerate(self.tokenizer.encode(texts[start : start + CHUNK], self.size), start):
                ids[row, : len(found)] = found
        return torch.from_numpy(ids)


def text_preprocessing(values: dict[str, Any]) -> TextPreprocessing:
    """The preprocessing that `as_dict` described."""
    return TextPreprocessing(values["size"], tokenizer_from(values["tokenizer"]))


@dataclass(frozen=True)
class TextOverrides:
    """What the user set of a text backbone's inputs; None leaves what the backbone or its weights say."""

    size: int | None = None

    def apply(self, preprocessing: TextPreprocessing) -> TextPreprocessing:
        """`preprocessing` with the user's length.

        Raises:
            UserError: a length below 1.
        """
        if self.size is None:
            return preprocessing
        if self.size < 1:
            raise UserError(f"backbone.size={self.size}: expected a positive number of tokens")
        return preprocessing.with_size(self.size)


@dataclass(frozen=True)
class TextAugmentation:
    """What is done to training texts; off by default.

    Tokens are left out at random, each with the same probability: "word dropout" of Iyyer et al., "Deep unordered
    composition rivals syntactic methods for text classification", ACL 2015.
    """

    token_dropout: float = 0.0  # share of the tokens that are left out

    def __post_init__(self) -> None:
        if not 0.0 <= self.token_dropout < 1.0:
            raise UserError(f"augmentation.token_dropout={self.token_dropout}: expected a share from 0, below 1")

    @property
    def any(self) -> bool:
        """Whether anything is random."""
        return self.token_dropout > 0


class TextView:
    """Token ids of whole batches as the network reads them.

    Args:
        preprocessing: what the backbone wants.
        augmentation: what is random in training; None trains on the view that evaluation uses.
        num_classes: of no meaning here: texts are not mixed.
    """

    def __init__(
        self, preprocessing: TextPreprocessing, augmentation: TextAugmentation | None, num_classes: int
    ) -> None:
        self.preprocessing = preprocessing
        self.augmentation = augmentation

    def train(self, batch: LabelledBatch, generator: Generator) -> LabelledBatch:
        """Random views int64 [n, t] of token ids int32 [n, t]; labels stay as they are."""
        return batch._replace(x=self.unmixed(batch.x, generator))

    def unmixed(self, x: Tensor, generator: Generator) -> Tensor:
        """Token ids int64 [n, t], those that are left out 0; every draw is from `generator`."""
        ids = self.evaluate(x)
        if self.augmentation is None:
            return ids
        kept = torch.rand(ids.shape, generator=generator, device=ids.device) >= self.augmentation.token_dropout
        return ids * kept

    def evaluate(self, x: Tensor) -> Tensor:
        """All token ids, int64 [n, t]."""
        return x[:].long()


@dataclass(frozen=True)
class TokenisedTexts:
    """Texts whose token ids are too many to keep."""

    made_anew: ClassVar[bool] = True

    texts: Sequence[str]
    preprocessing: TextPreprocessing

    def __len__(self) -> int:
        return len(self.texts)

    def canvases(self, positions: Tensor) -> Tensor:
        """Token ids int32 [n, t] of positions [n]."""
        return self.preprocessing.tokens([self.texts[position] for position in positions.tolist()])


def open_texts(
    split: RawSplit, preprocessing: TextPreprocessing, keep: bool, cache: CanvasCache | None = None, content: str = ""
) -> tuple[Images, list[Unreadable]]:
    """The token ids of a split's texts; the cache is for images, and no text is left out."""
    texts = [text for text in split.samples if isinstance(text, str)]
    return (KeptImages(preprocessing.tokens(texts)) if keep else TokenisedTexts(texts, preprocessing)), []


def fit_tokenizer(preprocessing: TextPreprocessing, texts: Callable[[], Sequence[str]]) -> TextPreprocessing:
    """`preprocessing` with a tokenizer fitted on texts, which are asked for only where it is to be fitted."""
    tokenizer = preprocessing.tokenizer
    if not isinstance(tokenizer, Subwords) or tokenizer.definition:
        return preprocessing
    return replace(preprocessing, tokenizer=tokenizer.fitted(texts()))
