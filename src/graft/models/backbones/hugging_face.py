"""Any text encoder of Hugging Face as a backbone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from graft.data.texts import TextOverrides, TextPreprocessing
from graft.data.tokenizing import Subwords
from graft.errors import UserError, nearest_path
from graft.models.backbones.base import Backbone
from graft.models.backbones.text_transformer import masked_mean
from graft.models.backbones.views import view_of_group

MOST_TOKENS = 128  # unless the user says otherwise; the cost of attention grows with the square
NEEDED = ("config.json", "tokenizer.json")
TAKEN = {"input_values": "sounds", "input_features": "sounds", "pixel_values": "images"}  # by encoders of no texts


class HuggingFaceBackbone(Backbone):
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
        self.folder = find_folder(path, revision, download)
        config = read_config(self.folder)
        most = longest_text(config)
        if size is not None and size > most:
            raise UserError(f"backbone.size={size}: {path} takes {most} tokens at most")
        definition = (self.folder / "tokenizer.json").read_text(encoding="utf-8")
        super().__init__(
            num_features=config.hidden_size,
            preprocessing=TextPreprocessing(min(MOST_TOKENS, most), Subwords(definition)),
            overrides=TextOverrides(size),
            native_classifier=("pooler.", "cls.", "classifier.", "lm_head.", "qa_outputs."),
        )
        self.name = Path(path).name
        self.pooling = pooling
        self.model = built(config)
        self.padding = config.pad_token_id or 0
        self._blocks, self._num_blocks = blocks_of(self.model)
        self._last_norms = norms_after_blocks(self.model, self._blocks)

    @property
    def layer_groups(self) -> dict[str, nn.Module]:
        """Views of the encoder's modules, in order from input to output; norms after the last block go with it."""
        names = ["embeddings", *(f"layer{number}" for number in range(self._num_blocks))]
        return {name: view_of_group(self.model, "", name, self._group) for name in names}

    def _group(self, name: str) -> str:
        """The group of a parameter or buffer of the encoder."""
        if name.startswith(self._blocks):
            return f"layer{name.removeprefix(self._blocks).partition('.')[0]}"
        return f"layer{self._num_blocks - 1}" if name.startswith(self._last_norms) else "embeddings"

    def native_names(self) -> dict[str, str]:
        """Each key without `model.`."""
        return {key: key.removeprefix("model.") for key in self.state_dict()}

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, d] of token ids int64 [n, t], 0 for none."""
        mask = x != 0
        ids = torch.where(mask, x - 1, self.padding)
        hidden: Tensor = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return hidden[:, 0] if self.pooling == "cls" else masked_mean(hidden, mask)

    def published_weights(self) -> tuple[str, ...]:
        """`model.safetensors`, where it is there."""
        return ("model.safetensors",) if (self.folder / "model.safetensors").is_file() else ()

    def download(self, name: str) -> tuple[dict[str, Tensor], TextPreprocessing]:
        """The weights in the folder, without the prefix of the encoder in a larger model."""
        from safetensors.torch import load_file

        state = load_file(self.folder / name)
        prefix = f"{self.model.base_model_prefix}."
        assert isinstance(self.preprocessing, TextPreprocessing)
        return {key.removeprefix(prefix): value for key, value in state.items()}, self.preprocessing


def transformers_library() -> Any:
    """The `transformers` library.

    Raises:
        UserError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError("backbone=hugging_face: transformers is not installed; pip install 'graft[text]'") from error
    return transformers


def find_folder(path: str, revision: str | None, download: bool) -> Path:
    """The folder of an encoder, downloaded where that is asked for.

    Raises:
        UserError: it is not here, or holds too little.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        folder = from_hub(path, revision, download)
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing == ["tokenizer.json"]:
        read_config(folder)  # refuses an encoder of sounds or images, which has no tokenizer
    if missing:
        raise UserError(f"backbone.path={path}: holds no {' and no '.join(missing)}")
    return folder


def from_hub(path: str, revision: str | None, download: bool) -> Path:
    """The folder in which a snapshot of a repository lies."""
    if revision is None or len(revision) != 40:
        hint = nearest_path(Path(path).expanduser())
        needed = "backbone.revision=<40 digits of a commit>"
        raise UserError(f"backbone.path={path}: no such folder{hint}; from the hub, give {needed} too")
    transformers_library()
    from huggingface_hub import snapshot_download

    try:
        with quiet():
            found = snapshot_download(
                path, revision=revision, local_files_only=not download, allow_patterns=[*NEEDED, "model.safetensors"]
            )
    except Exception as error:  # the library raises errors of several others
        reason = (str(error) or type(error).__name__).splitlines()[0]
        hint = "" if download else "; backbone.download=true asks the hub"
        raise UserError(f"backbone.path={path}: is not here ({reason}){hint}") from error
    return Path(found)


def read_config(folder: Path) -> Any:
    """The configuration of an encoder.

    Raises:
        UserError: it is damaged, of a kind that the library does not know, or has code of its own; or it takes
            anything but texts, with the backbones for that.
    """
    transformers = transformers_library()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"backbone.path={folder}: config.json describes no known encoder ({reason})") from error
    if not hasattr(config, "hidden_size") or getattr(config, "is_encoder_decoder", False):
        raise UserError(f"backbone.path={folder}: {config.model_type} is no encoder of texts; try one like BERT")
    model = transformers.AutoModel._model_mapping[type(config)]
    model = model[0] if isinstance(model, tuple) else model  # of variants the first
    if (wanted := model.main_input_name) in TAKEN:
        raise UserError(
            f"backbone.path={folder}: {config.model_type} takes {TAKEN[wanted]}, and backbone=hugging_face takes "
            "texts; for images and sounds choose backbone=cnn, resnet18 or timm"
        )
    return config


def built(config: Any) -> Any:
    """The encoder with fresh weights; without a pooler where it can do without."""
    library = transformers_library()
    kind = library.AutoModel._model_mapping[type(config)]
    with quiet():
        try:
            return kind(config, add_pooling_layer=False)
        except TypeError:
            return kind(config)


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


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of the hub's."""
    before = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    try:
        yield
    finally:
        os.environ.pop("HF_HUB_DISABLE_PROGRESS_BARS")
        if before is not None:
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = before
