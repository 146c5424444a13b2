"""Digits and letters rendered from fonts: a synthetic source as large as one likes."""

import math
import string
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor
from torch.nn import functional

from graft.data.readers.base import RawDataset, RawSplit, hash_splits
from graft.errors import UserError, did_you_mean
from graft.seeds import stable_seed

CHARACTERS = {
    "digits": string.digits,
    # Small letters that are shaped like their capitals are left out, as in the balanced split of EMNIST.
    "letters": string.ascii_uppercase + "abdefghnqrt",
    "alphanumeric": string.digits + string.ascii_uppercase + "abdefghnqrt",
}
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSansMono-Oblique"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmss10", "cmtt10", "cmb10", "cmti10"),
)
STENCIL = 48  # pixels of the square that a character is rendered in, whatever its size in the end
BODY = 40  # pixels of the longer edge of its ink there
THICKENINGS = (-1, 0, 1, 2)  # pixels by which strokes are thinned or thickened there
CHUNK = 2048  # images drawn at once


@dataclass(frozen=True)
class Glyphs:
    """Renders white characters on black in the fonts that ship with Matplotlib, deformed at random.

    The same arguments give the same images. Training and test images are drawn independently.

    Args:
        characters: `digits`, `letters` or `alphanumeric`, which is both.
        num_samples: training images, spread evenly over the classes.
        num_test_samples: test images.
        size: height and width in pixels.
        seed: what everything is drawn from.
    """

    characters: str = "alphanumeric"
    num_samples: int = 8000
    num_test_samples: int = 2000
    size: int = 32
    seed: int = 0

    def version(self) -> str:
        """The settings decide everything."""
        return "rendered"

    def read(self) -> RawDataset:
        """Render both splits: uint8 [n, size, size].

        Raises:
            UserError: unknown characters, or fewer samples than classes.
        """
        if self.characters not in CHARACTERS:
            raise UserError(f"characters={self.characters}: {did_you_mean(self.characters, CHARACTERS)}")
        class_names = tuple(CHARACTERS[self.characters])
        for name in ("num_samples", "num_test_samples"):
            if getattr(self, name) < len(class_names):
                raise UserError(
                    f"{name}={getattr(self, name)}: expected at least one for each of {len(class_names)} classes"
                )
        if self.size < 8:
            raise UserError(f"size={self.size}: expected at least 8 pixels")
        stencils = render_stencils(class_names)
        train = self._draw(stencils, self.num_samples, "train")
        test = self._draw(stencils, self.num_test_samples, "test")
        return RawDataset(train, test, None, class_names, hash_splits((train, test), class_names))

    def _draw(self, stencils: Tensor, num_samples: int, split: str) -> RawSplit:
        generator = Generator().manual_seed(stable_seed(self.seed, "glyphs", split))
        labels = torch.arange(num_samples) % len(stencils)
        labels = labels[torch.randperm(num_samples, generator=generator)]
        images = [draw(stencils, part, self.size, generator) for part in labels.split(CHUNK)]
        return RawSplit(torch.cat(images).numpy(), labels.numpy().astype(np.int64))


def font_files() -> list[Path]:
    """The fonts' files, found without importing Matplotlib, which is slow."""
    spec = find_spec("matplotlib")
    assert spec is not None, "matplotlib is a dependency"
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    return [folder / f"{name}.ttf" for name in FONTS]


def render_stencils(characters: tuple[str, ...]) -> Tensor:
    """Every character in every font and thickness: float [k, font, thickness, STENCIL, STENCIL] in [0, 1]."""
    fonts = [ImageFont.truetype(str(path), size=BODY) for path in font_files()]
    ink = np.stack([[render(character, font) for font in fonts] for character in characters])
    return thicken(torch.from_numpy(ink).float() / 255)


def render(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """One character, uint8 [STENCIL, STENCIL], its ink centred and scaled to BODY."""
    left, top, right, bottom = font.getbbox(character)
    font = font.font_variant(size=BODY * BODY / max(right - left, bottom - top))
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("L", (STENCIL, STENCIL))
    place = ((STENCIL - left - right) / 2, (STENCIL - top - bottom) / 2)
    ImageDraw.Draw(image).text(place, character, fill=255, font=font)
    return np.asarray(image)


def thicken(ink: Tensor) -> Tensor:
    """Erosions and dilations of [k, font, h, w] by a cross, one for each of THICKENINGS: [k, font, thickness, h, w]."""
    thinner, thicker = [ink], [ink]
    for _ in range(-min(THICKENINGS)):
        # Strokes keep a quarter of their ink where erosion would take them away.
        thinner.append(torch.maximum(1 - spread(1 - thinner[-1]), thinner[-1] / 4))
    for _ in range(max(THICKENINGS)):
        thicker.append(spread(thicker[-1]))
    return torch.stack([thinner[-width] if width < 0 else thicker[width] for width in THICKENINGS], dim=2)


def spread(x: Tensor) -> Tensor:
    """The largest value of each pixel [..., h, w] and its four neighbours."""
    wider = x.clone()
    for axis in (-2, -1):
        length = x.shape[axis] - 1
        for here, there in ((0, 1), (1, 0)):
            part = wider.narrow(axis, here, length)
            torch.maximum(part, x.narrow(axis, there, length), out=part)
    return wider


def draw(stencils: Tensor, labels: Tensor, size: int, generator: Generator) -> Tensor:
    """Images uint8 [n, size, size] of the characters `labels` [n], each in a font, thickness and pose of its own."""
    num = len(labels)
    num_fonts, num_widths = stencils.shape[1:3]
    font = torch.randint(num_fonts, (num,), generator=generator)
    width = torch.randint(num_widths, (num,), generator=generator)
    ink = stencils[labels, font, width][:, None]
    # Small images are sampled more finely and averaged, so that strokes do not fall between the pixels.
    fineness = math.ceil(STENCIL / (1.5 * size))
    grid = affine_grid(random_affine(num, generator), fineness * size)
    x = functional.grid_sample(ink, grid, mode="bilinear", align_corners=False)
    return add_noise(functional.avg_pool2d(x, fineness) if fineness > 1 else x, generator)[:, 0]


def affine_grid(theta: Tensor, size: int) -> Tensor:
    """Where the pixels of [n, size, size] images lie under the maps [n, 2, 3], in [-1, 1]: [n, size, size, 2].

    Sums of rows and columns, which costs far less than `functional.affine_grid`'s matrix product for every pixel.
    """
    line = (torch.arange(size) * 2 + 1) / size - 1
    columns = theta[:, None, None, :, 0] * line[None, None, :, None]
    rows = theta[:, None, None, :, 1] * line[None, :, None, None]
    return (columns + rows).add_(theta[:, None, None, :, 2])


def random_affine(num: int, generator: Generator) -> Tensor:
    """Maps [n, 2, 3] from the image to the stencil: rotation, shear, stretch and shift."""

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(num, generator=generator) * (high - low) + low

    angle, shear = uniform(-0.26, 0.26), uniform(-0.3, 0.3)  # radians; 15 degrees
    scale, stretch = uniform(0.8, 1.15), uniform(0.8, 1.25).sqrt()
    cos, sin = angle.cos() / scale, angle.sin() / scale
    rows = torch.stack([cos / stretch, shear * cos - sin, uniform(-0.12, 0.12)], dim=1)
    columns = torch.stack([sin / stretch, shear * sin + cos * stretch, uniform(-0.12, 0.12)], dim=1)
    return torch.stack([rows, columns], dim=1)


def add_noise(x: Tensor, generator: Generator) -> Tensor:
    """Ink [n, 1, h, w] in [0, 1] as uint8, blurred, brightened and grained to a degree that differs between images."""
    num = len(x)
    blurred = functional.avg_pool2d(functional.pad(x, [1, 1, 1, 1], mode="replicate"), 3, stride=1)

    def per_image(low: float, high: float) -> Tensor:
        return torch.rand(num, 1, 1, 1, generator=generator) * (high - low) + low

    x = blurred.lerp_(x, per_image(0.0, 1.0))
    x.mul_(per_image(0.6, 1.0)).add_(per_image(0.0, 0.1))
    x.add_(torch.randn(x.shape, generator=generator).mul_(per_image(0.0, 0.08)))
    return x.clamp_(0, 1).mul_(255).round_().to(torch.uint8)
