"""Samples of each kind that a trained network is used on: where they are found, and how they are stored for it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from graft.data.preprocessing import Inputs
from graft.data.readers.base import Unreadable
from graft.data.sound_forms import sound_form
from graft.inference.images import Normalised, image_canvas, images_at, pixels
from graft.inference.sounds import random_waveforms, sounds_at, waveform
from graft.inference.texts import WholeNumbers, random_tokens, texts_at, token_ids

Refuse = Callable[[Unreadable], None]
PassOver = Callable[[Path], None]


@dataclass(frozen=True)
class Item:
    """One sample, not read yet."""

    name: str
    source: Any  # an image's file or array, a text, ...


@dataclass(frozen=True)
class Stored:
    """Some samples as a domain stores them, and those that cannot be."""

    names: list[str]
    samples: Tensor  # [n, ...]
    broken: list[Unreadable]


@dataclass(frozen=True)
class Kind:
    """What the use of a network needs to know of one kind of sample."""

    nouns: str  # what samples are called
    inputs: str  # what an exported file calls its input
    at: Callable[[Path, Refuse, PassOver], Iterator[tuple[str, Any]]]  # names and sources of the samples at a path
    lines_are_samples: bool  # whether a line of standard input is a sample itself, or the path of some
    store: Callable[[Any, Any], np.ndarray | Unreadable]  # source, preprocessing -> as a domain stores it
    example: Callable[[Any, int, Generator], Tensor]  # preprocessing, n -> stored samples that an exported file takes
    inside: Callable[[Any], nn.Module]  # preprocessing -> from such samples to the network's inputs


KINDS: dict[str, Kind] = {
    "image": Kind(
        nouns="images",
        inputs="images",
        at=images_at,
        lines_are_samples=False,
        store=image_canvas,
        example=pixels,
        inside=Normalised,
    ),
    "audio": Kind(
        nouns="sounds",
        inputs="waveforms",
        at=sounds_at,
        lines_are_samples=False,
        store=waveform,
        example=random_waveforms,
        inside=sound_form,
    ),
    "text": Kind(
        nouns="texts",
        inputs="tokens",
        at=texts_at,
        lines_are_samples=True,
        store=token_ids,
        example=random_tokens,
        inside=WholeNumbers,
    ),
}


def kind_of(preprocessing: Inputs) -> Kind:
    """That of a network's inputs."""
    return KINDS[preprocessing.modality]


def items_from(
    kind: Kind, lines: Iterable[str], are_samples: bool, refuse: Refuse, pass_over: PassOver
) -> Iterator[Item]:
    """The samples that lines of text stand for, one after the other.

    Args:
        kind: of the samples.
        lines: paths, or samples themselves where they `are_samples`; empty ones are left out.
        are_samples: whether a line is a sample.
        refuse: is told of what cannot be read.
        pass_over: is told of files in folders whose names are not those of such samples.
    """
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        if not text:
            continue
        if are_samples:
            yield Item(str(number), text)
        else:
            for name, source in kind.at(Path(text).expanduser(), refuse, pass_over):
                yield Item(name, source)


def in_batches(items: Iterable[Item], batch_size: int) -> Iterator[list[Item]]:
    """The items in lists of so many, the last of as many as are left."""
    remaining = iter(items)
    while batch := list(islice(remaining, batch_size)):
        yield batch


def read_batch(preprocessing: Inputs, items: list[Item]) -> Stored:
    """Read some samples as a domain would."""
    kind = kind_of(preprocessing)
    names: list[str] = []
    samples: list[np.ndarray] = []
    broken: list[Unreadable] = []
    for item in items:
        found = kind.store(item.source, preprocessing)
        if isinstance(found, Unreadable):
            broken.append(found)
        else:
            names.append(item.name)
            samples.append(found)
    return Stored(names, torch.from_numpy(np.stack(samples)) if samples else torch.empty(0), broken)
