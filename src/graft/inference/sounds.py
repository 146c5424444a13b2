"""Sound files that a trained network is used on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from graft.data.readers.audio_folder import SOUNDS
from graft.data.readers.base import Unreadable
from graft.data.sound_preprocessing import SoundPreprocessing
from graft.data.waveforms import decode_sound
from graft.inference.images import named_files, printable


def sounds_at(
    path: Path, refuse: Callable[[Unreadable], None], pass_over: Callable[[Path], None]
) -> Iterator[tuple[str, Path]]:
    """Names and files of the sounds at a path: the file, or all in a folder, in the order of their paths.

    Args:
        path: need not exist; a file is taken for a sound whatever its name.
        refuse: not used, what cannot be decoded shows later.
        pass_over: is told of files in folders whose names are not those of sounds.
    """
    if path.is_dir():
        yield from named_files(path, SOUNDS, pass_over)
    else:
        yield printable(path), path


def waveform(source: Path, preprocessing: SoundPreprocessing) -> np.ndarray | Unreadable:
    """int16 [samples], as a domain stores it."""
    return decode_sound(source, preprocessing.sampling)


def random_waveforms(preprocessing: SoundPreprocessing, num: int, generator: Generator) -> Tensor:
    """White noise, int16 [n, samples]."""
    shape = (num, preprocessing.sampling.samples)
    return torch.randint(-(2**15), 2**15, shape, dtype=torch.int16, generator=generator)
