"""What is done to samples of each kind: how they are opened, and what their batches go through before the network.

A reader says what it reads (`RawDataset.modality`), a backbone what it wants (`Inputs.modality`). All kinds are of one
size once they are opened, and are found by position, so that nothing else needs to know which kind it handles.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Generator, Tensor

from graft.batch import LabelledBatch
from graft.data.augment import Augmentation
from graft.data.canvas_cache import CanvasCache
from graft.data.images import Images, open_images
from graft.data.preprocessing import Inputs, image_preprocessing
from graft.data.readers.base import RawDataset, RawSplit, Unreadable
from graft.data.sound_augment import SoundAugmentation
from graft.data.sound_preprocessing import sound_preprocessing
from graft.data.sound_view import SoundView
from graft.data.sounds import open_sounds
from graft.data.texts import TextAugmentation, TextView, fit_tokenizer, open_texts, text_preprocessing
from graft.data.view import View
from graft.errors import UserError, did_you_mean


class AnyView(Protocol):
    """What batches of one kind go through between the loader and the network, on the device they are on."""

    @property
    def preprocessing(self) -> Any:
        """What it was made for."""

    def train(self, batch: LabelledBatch, generator: Generator) -> LabelledBatch:
        """A random training view; every draw comes from `generator`."""

    def unmixed(self, x: Tensor, generator: Generator) -> Tensor:
        """Random views of stored samples, each of one sample alone."""

    def evaluate(self, x: Tensor) -> Tensor:
        """The fixed view of stored samples that evaluation uses."""


class Randomness(Protocol):
    """What is random in the training views of one kind of sample; a frozen dataclass of plain values."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def any(self) -> bool:
        """Whether anything is."""


# split, preprocessing, whether to keep all in memory, cache, hash of the content -> samples, and what is left out
Open = Callable[[RawSplit, Any, bool, CanvasCache | None, str], tuple[Images, list[Unreadable]]]


@dataclass(frozen=True)
class Modality:
    """All that is particular to one kind of sample."""

    noun: str  # of one sample, for people
    open: Open
    view: Callable[[Any, Any, int], AnyView]  # preprocessing, augmentation or None, number of classes
    augmentation: type  # what `view` takes
    preprocessing: Callable[[dict[str, Any]], Inputs]  # from what `Inputs.as_dict` says
    domains: str  # some that hold such samples, for errors
    backbones: str  # some that take them
    # what a backbone wants, and what gives the samples that it may learn from -> what it wants once that is learned
    fit: Callable[[Any, Callable[[], Any]], Inputs] | None = None


MODALITIES: dict[str, Modality] = {
    "image": Modality(
        noun="image",
        open=open_images,
        view=View,
        augmentation=Augmentation,
        preprocessing=image_preprocessing,
        domains="image_folder, arrays or cifar10",
        backbones="cnn, resnet18 or mobilenet_v2",
    ),
    "audio": Modality(
        noun="sound",
        open=open_sounds,
        view=SoundView,
        augmentation=SoundAugmentation,
        preprocessing=sound_preprocessing,
        domains="audio_folder",
        backbones="cnn, resnet20 or resnet18, with a rendering of sounds as spectrograms, or hugging_face_audio",
    ),
    "text": Modality(
        noun="text",
        open=open_texts,
        view=TextView,
        augmentation=TextAugmentation,
        preprocessing=text_preprocessing,
        domains="text_table or text_folder",
        backbones="bag_of_ngrams, text_transformer or hugging_face",
        fit=fit_tokenizer,
    ),
}


def modality_of(preprocessing: Inputs) -> Modality:
    """What is done to the samples that a backbone wants."""
    return MODALITIES[preprocessing.modality]


def make_view(preprocessing: Inputs, augmentation: Randomness | None, num_classes: int) -> AnyView:
    """What batches go through; without an augmentation, the same in training as in evaluation.

    Raises:
        UserError: the augmentation is for samples of another kind.
    """
    modality = modality_of(preprocessing)
    if augmentation is not None and not isinstance(augmentation, modality.augmentation):
        raise UserError(
            f"{type(augmentation).__name__} does not augment a {modality.noun}; "
            f"expected {modality.augmentation.__name__}"
        )
    return modality.view(preprocessing, augmentation, num_classes)


def read_preprocessing(text: str) -> Inputs:
    """The preprocessing that is written in the metadata of a file of weights, as JSON of `Inputs.as_dict`.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    values = json.loads(text)
    name = values.pop("modality", "image")
    if name not in MODALITIES:
        raise ValueError(f"inputs of an unknown kind, {name!r}; {did_you_mean(name, MODALITIES)}")
    return MODALITIES[name].preprocessing(values)


def check_modality(domain: str | None, raw: RawDataset, preprocessing: Inputs) -> None:
    """Refuse samples of another kind than the backbone takes.

    Raises:
        UserError: with some backbones, and some data sets, that would go together.
    """
    if raw.modality == preprocessing.modality:
        return
    found, wanted = MODALITIES[raw.modality], modality_of(preprocessing)
    raise UserError(
        f"{domain} holds {found.noun}s, and the backbone takes {wanted.noun}s; for {found.noun}s choose backbone="
        f"{found.backbones}, or for this backbone a domain of {wanted.noun}s, such as {wanted.domains}"
    )
