"""Texts as numbers: 0 is padding, and every tokenizer's own numbers begin at 1."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from typing import Any, ClassVar, Protocol
from zlib import crc32

from graft.errors import UserError

WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")  # words, with what follows an apostrophe, and single marks
UNKNOWN = "[UNK]"


class Tokenizer(Protocol):
    """What splits texts; frozen, hashable, and of plain values."""

    kind: ClassVar[str]

    @property
    def num_ids(self) -> int:
        """One more than the largest number that it gives, padding included."""

    def encode(self, texts: Sequence[str], longest: int) -> list[list[int]]:
        """At most `longest` numbers of each text, from 1."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, `kind` among them."""


@dataclass(frozen=True)
class HashedNgrams:
    """Words and runs of words, each once, numbered by a hash of its letters (Joulin et al., EACL 2017).

    The hash is CRC-32, the same in every process and on every machine. A run comes right after its last word, so that
    a text that is cut loses its end. How often a word comes says less of a text than that it does, so repetitions are
    left out and make no text longer.

    >>> HashedNgrams(buckets=1000, longest_run=2).ngrams("Not good!")
    ['not', 'good', 'not good', '!', 'good !']
    """

    kind: ClassVar[str] = "distinct_hashed_ngrams"

    buckets: int = 2**18
    longest_run: int = 2  # words of the longest n-gram

    @property
    def num_ids(self) -> int:
        """One for each bucket, and padding."""
        return self.buckets + 1

    def ngrams(self, text: str) -> list[str]:
        """Words and runs in the order in which they end."""
        words = WORD.findall(text.lower())
        return [" ".join(words[end - run : end]) for end, run in _runs(len(words), self.longest_run)]

    def encode(self, texts: Sequence[str], longest: int) -> list[list[int]]:
        """At most `longest` different numbers of each text, from 1."""
        return [list(islice(dict.fromkeys(map(self._bucket, self.ngrams(text))), longest)) for text in texts]

    def _bucket(self, ngram: str) -> int:
        return 1 + crc32(ngram.encode("utf-8", "replace")) % self.buckets

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, **asdict(self)}


def _runs(num_words: int, longest: int) -> Iterator[tuple[int, int]]:
    """End and length of every run."""
    for end in range(1, num_words + 1):
        for run in range(1, min(longest, end) + 1):
            yield end, run


@dataclass(frozen=True)
class Subwords:
    """A tokenizer of the `tokenizers` library by its definition, or one by byte pairs that is still to be fitted.

    Args:
        definition: JSON as the library writes it; empty until it is fitted.
        vocabulary: the most pieces where it is to be fitted.
    """

    kind: ClassVar[str] = "subwords"

    definition: str = ""
    vocabulary: int = 0

    def __post_init__(self) -> None:
        if not self.definition and self.vocabulary < 2**8 + 1:
            raise UserError(f"backbone.vocabulary={self.vocabulary}: expected 257 or more, one for each byte at least")

    @property
    def num_ids(self) -> int:
        """One for each piece, and padding."""
        return 1 + (opened(self.definition).get_vocab_size() if self.definition else self.vocabulary)

    def fitted(self, texts: Iterable[str]) -> "Subwords":
        """Byte pairs merged by how often they stand in texts (Sennrich et al., ACL 2016); itself if fitted before.

        The same texts in the same order give the same pieces.
        """
        if self.definition:
            return self
        library = library_of_tokenizers()
        tokenizer = library.Tokenizer(library.models.BPE(unk_token=UNKNOWN))
        tokenizer.normalizer = library.normalizers.Sequence(
            [library.normalizers.NFC(), library.normalizers.Lowercase()]
        )
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
        trainer = library.trainers.BpeTrainer(
            vocab_size=self.vocabulary,
            special_tokens=[UNKNOWN],
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return Subwords(tokenizer.to_str(), self.vocabulary)

    def encode(self, texts: Sequence[str], longest: int) -> list[list[int]]:
        """At most `longest` numbers of each text, from 1; marks that the tokenizer puts around a text are kept."""
        assert self.definition, "fit first"
        found = opened(self.definition, longest).encode_batch(
            [text.encode("utf-8", "replace").decode() for text in texts]
        )
        return [[1 + number for number in encoding.ids] for encoding in found]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": self.kind, **asdict(self)}


def library_of_tokenizers() -> Any:
    """The `tokenizers` library.

    Raises:
        UserError: it is not installed.
    """
    try:
        import tokenizers
        from tokenizers import models, normalizers, pre_tokenizers, trainers  # noqa: F401
    except ImportError as error:
        raise UserError("backbones of subwords need the library tokenizers; pip install 'graft[text]'") from error
    return tokenizers


@cache
def opened(definition: str, longest: int | None = None) -> Any:
    """The library's tokenizer of a definition, which cuts texts after `longest` pieces.

    Raises:
        UserError: it is none.
    """
    try:
        tokenizer = library_of_tokenizers().Tokenizer.from_str(definition)
    except UserError:
        raise
    except Exception as error:  # the library raises plain ones
        raise UserError(f"not a tokenizer: {str(error).splitlines()[0]}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if longest is not None:
        tokenizer.enable_truncation(longest)
    return tokenizer


TOKENIZERS: dict[str, type] = {kind.kind: kind for kind in (HashedNgrams, Subwords)}


def tokenizer_from(values: dict[str, Any]) -> Tokenizer:
    """The tokenizer that `as_dict` described.

    Raises:
        KeyError, TypeError: it described none.
    """
    settings = {name: value for name, value in values.items() if name != "kind"}
    made: Tokenizer = TOKENIZERS[values["kind"]](**settings)
    return made
