"""Sounds as waveforms of one rate and length: kept in memory, or decoded each time they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from graft.data.canvas_cache import CanvasCache
from graft.data.files import Files
from graft.data.images import Images, KeptImages, stacked
from graft.data.readers.base import RawSplit, Unreadable, file_names
from graft.data.sound_preprocessing import SoundPreprocessing
from graft.data.waveforms import Sampling, decode_sound, decode_sounds, unreadable_sounds


@dataclass(frozen=True)
class SoundFiles:
    """Sound files too many to keep."""

    made_anew: ClassVar[bool] = True

    paths: Sequence[Path]
    sampling: Sampling

    def __len__(self) -> int:
        return len(self.paths)

    def canvases(self, positions: Tensor) -> Tensor:
        """int16 [n, samples] of positions [n].

        Raises:
            UserError: a file that could be read when the domain was loaded cannot be read any more.
        """
        return stacked(decode_sound(self.paths[position], self.sampling) for position in positions.tolist())


def open_sounds(
    split: RawSplit,
    preprocessing: SoundPreprocessing,
    keep: bool,
    cache: CanvasCache | None = None,
    content: str = "",
) -> tuple[Images, list[Unreadable]]:
    """The sounds of a split of files, and those that cannot be decoded, which are left out of it.

    They are brought to the rate and length that the preprocessing says, and kept in memory where `keep` says so.
    Neither `cache` nor `content` is used: to decode a waveform takes little longer than to read it.
    """
    paths = Files(file_names(split.samples))
    sampling = preprocessing.sampling
    if not keep:
        broken = unreadable_sounds(paths, sampling)
        return SoundFiles(paths.without(found.path for found in broken), sampling), broken
    found = decode_sounds(paths, sampling)
    sounds = [sound for sound in found if isinstance(sound, np.ndarray)]
    stacked = np.stack(sounds) if sounds else np.empty((0, sampling.samples), np.int16)
    return KeptImages(torch.from_numpy(stacked)), [sound for sound in found if isinstance(sound, Unreadable)]
