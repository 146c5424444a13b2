"""Any text encoder of Hugging Face as a backbone."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from graft.data.texts import TextOverrides, TextPreprocessing
from graft.data.tokenizing import Subwords
from graft.errors import UserError
from graft.models.backbones.encoder_files import Kind, find_encoder
from graft.models.backbones.hugging_face_encoder import HuggingFaceEncoder
from graft.models.backbones.text_transformer import masked_mean

MOST_TOKENS = 128  # unless the user says otherwise; the cost of attention grows with the square
TEXTS = Kind(backbone="hugging_face", samples="texts", file="tokenizer.json", example="BERT")


class HuggingFaceBackbone(HuggingFaceEncoder):
    """A text encoder of the `transformers` library without its head, such as BERT. Needs the extra `text`.

    It is described by a folder with `config.json` and `tokenizer.json`, or on the hub by a name and a pinned revision.
    `backbone.weights=DEFAULT` takes its `model.safetensors`; weights in other formats are not read, and no code of a
    model's own is run. Layer groups are `embeddings`, then `layer0`, `layer1`, ...; a pooler that comes with the
    encoder is left out.

    Args:
        path: a folder, or the name of a repository on the hub.
        revision: of the repository, a commit's 40 hex digits, so that it cannot change.
        download: whether the hub may be asked; otherwise what is not here is an error.
        pooling: "mean" over the tokens, or "cls": the first token's vector.
        size: the most tokens that are read of a text; 128, or what the encoder takes, unless said otherwise.

    Raises:
        UserError: a package is not installed, there is no such folder, or none of the files in it that are needed.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        download: bool = False,
        pooling: Literal["mean", "cls"] = "mean",
        size: int | None = None,
    ) -> None:
        found = find_encoder(path, revision, download, TEXTS)
        most = longest_text(found.config)
        if size is not None and size > most:
            raise UserError(f"backbone.size={size}: {path} takes {most} tokens at most")
        definition = (found.folder / TEXTS.file).read_text(encoding="utf-8")
        super().__init__(
            found,
            preprocessing=TextPreprocessing(min(MOST_TOKENS, most), Subwords(definition)),
            overrides=TextOverrides(size),
            heads=("pooler.", "cls.", "classifier.", "lm_head.", "qa_outputs."),
        )
        self.pooling = pooling
        self.padding = found.config.pad_token_id or 0
        self._blocks, self._num_blocks = blocks_of(self.model)
        self._last_norms = norms_after_blocks(self.model, self._blocks)

    @property
    def group_names(self) -> list[str]:
        """In order; norms after the last block go with it."""
        return ["embeddings", *(f"layer{number}" for number in range(self._num_blocks))]

    def group_of(self, name: str) -> str:
        """The group of a parameter or buffer of the encoder."""
        if name.startswith(self._blocks):
            return f"layer{name.removeprefix(self._blocks).partition('.')[0]}"
        return f"layer{self._num_blocks - 1}" if name.startswith(self._last_norms) else "embeddings"

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, d] of token ids int64 [n, t], 0 for none."""
        mask = x != 0
        ids = torch.where(mask, x - 1, self.padding)
        hidden: Tensor = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return hidden[:, 0] if self.pooling == "cls" else masked_mean(hidden, mask)


def longest_text(config: Any) -> int:
    """Tokens that an encoder takes at most; RoBERTa's places begin after that of padding."""
    most: int = getattr(config, "max_position_embeddings", MOST_TOKENS)
    shifted = config.model_type in ("roberta", "xlm-roberta", "camembert", "longformer")
    return most - (config.pad_token_id + 1 if shifted else 0)


def blocks_of(model: nn.Module) -> tuple[str, int]:
    """What the names of all that is in an encoder's blocks begin with, and how many blocks there are.

    Raises:
        UserError: there are none.
    """
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    if not lists:
        raise UserError(f"backbone=hugging_face: {type(model).__name__} has no list of blocks")
    name = max(lists, key=lambda key: len(lists[key]))
    return f"{name}.", len(lists[name])


def norms_after_blocks(model: nn.Module, blocks: str) -> tuple[str, ...]:
    """What the names of parameters begin with of norms that come after the blocks; those before are of embeddings."""
    names = [name for name, _ in model.named_modules()]
    first = names.index(f"{blocks}0")
    after = (name for name in names[first:] if not name.startswith(blocks))
    return tuple(f"{name}." for name in after if is_norm(model.get_submodule(name)))


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer by its name, of whatever library."""
    return "norm" in type(module).__name__.lower()
