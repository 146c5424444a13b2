"""The folder that describes an encoder of Hugging Face: found here or on the hub, and refused where it is another's."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.errors import UserError, nearest_path

WEIGHTS = "model.safetensors"
TAKEN = {"input_values": "waveforms", "input_features": "spectrograms", "pixel_values": "images"}  # texts, if none
INSTEAD = {  # what takes such samples
    "texts": "for texts choose backbone=hugging_face",
    "waveforms": "for waveforms choose backbone=hugging_face_audio",
    "spectrograms": "for sounds as spectrograms choose backbone=cnn, resnet18 or timm",
    "images": "for images choose backbone=cnn, resnet18 or timm",
}


@dataclass(frozen=True)
class Kind:
    """What is asked of an encoder."""

    backbone: str  # that takes it, as in conf
    samples: str  # that it must take
    file: str  # that lies beside its config.json
    example: str


@dataclass(frozen=True)
class EncoderFiles:
    """A folder in which an encoder is described, and its configuration."""

    name: str
    folder: Path
    config: Any  # of the transformers library


def find_encoder(path: str, revision: str | None, download: bool, kind: Kind) -> EncoderFiles:
    """An encoder of some kind, downloaded where that is asked for.

    Args:
        path: a folder, or the name of a repository on the hub.
        revision: of the repository, a commit's 40 hex digits, so that it cannot change.
        download: whether the hub may be asked; otherwise what is not here is an error.
        kind: what it must be.

    Raises:
        UserError: transformers is not installed; the encoder is not here, or is another's; or a file is missing.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        folder = from_hub(path, revision, download, ["config.json", kind.file, WEIGHTS])
    missing = [name for name in ("config.json", kind.file) if not (folder / name).is_file()]
    config = None if "config.json" in missing else read_config(folder, kind)  # what an encoder is, is said first
    if missing:
        raise UserError(f"backbone.path={path}: holds no {' and no '.join(missing)}")
    return EncoderFiles(Path(path).name, folder, config)


def transformers_library() -> Any:
    """The `transformers` library.

    Raises:
        UserError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError("encoders of Hugging Face need transformers: pip install 'graft[text]'") from error
    return transformers


def from_hub(path: str, revision: str | None, download: bool, files: list[str]) -> Path:
    """The folder in which a snapshot of a repository lies."""
    if revision is None or len(revision) != 40:
        hint = nearest_path(Path(path).expanduser())
        needed = "backbone.revision=<40 digits of a commit>"
        raise UserError(f"backbone.path={path}: no such folder{hint}; from the hub, give {needed} too")
    transformers_library()
    from huggingface_hub import snapshot_download

    try:
        with quiet():
            found = snapshot_download(path, revision=revision, local_files_only=not download, allow_patterns=files)
    except Exception as error:  # the library raises errors of several others
        reason = (str(error) or type(error).__name__).splitlines()[0]
        hint = "" if download else "; backbone.download=true asks the hub"
        raise UserError(f"backbone.path={path}: is not here ({reason}){hint}") from error
    return Path(found)


def read_config(folder: Path, kind: Kind) -> Any:
    """The configuration of an encoder of some kind.

    Raises:
        UserError: it is damaged, of a kind that the library does not know, or has code of its own; or it takes other
            samples, with the backbones for those.
    """
    transformers = transformers_library()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        taken = samples_taken(config)
    except (ValueError, OSError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"backbone.path={folder}: config.json describes no known encoder ({reason})") from error
    if taken != kind.samples:
        raise UserError(
            f"backbone.path={folder}: {config.model_type} takes {taken}, and backbone={kind.backbone} takes "
            f"{kind.samples}; {INSTEAD[taken]}"
        )
    if not hasattr(config, "hidden_size") or getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"backbone.path={folder}: {config.model_type} is no encoder of {kind.samples}; try one like {kind.example}"
        )
    return config


def samples_taken(config: Any) -> str:
    """What samples a model of a configuration takes."""
    name = model_class(config).main_input_name
    if name == "input_values" and hasattr(config, "num_mel_bins") and not hasattr(config, "conv_stride"):
        return "spectrograms"  # of the Audio Spectrogram Transformer
    return TAKEN.get(name, "texts")


def model_class(config: Any) -> Any:
    """The class of the model without a head; of variants the first.

    Raises:
        KeyError: there is none.
    """
    found = transformers_library().AutoModel._model_mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def built(config: Any) -> Any:
    """The encoder with fresh weights; without a pooler where it can do without."""
    kind = model_class(config)
    with quiet():
        try:
            return kind(config, add_pooling_layer=False)
        except TypeError:
            return kind(config)


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
