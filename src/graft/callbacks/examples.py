"""Pictures of single images and of where a network looked, as uint8 [h, w, 3]; drawn by hand as in `pictures`."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from graft.callbacks.pictures import INK, lettering

SIDE = 128  # pixels of an image's side
GAP, LINE = 4, 15  # pixels between images, and of a line of text
PER_ROW = 3


def enlarged(image: np.ndarray) -> np.ndarray:
    """An image uint8 [c, h, w] as [SIDE, SIDE, 3]; small ones keep their pixels."""
    picture = Image.fromarray(np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0).copy())
    how = Image.Resampling.NEAREST if image.shape[1] < SIDE else Image.Resampling.BILINEAR
    return np.asarray(picture.resize((SIDE, SIDE), how))


def overlaid(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The image in grey, uint8 [SIDE, SIDE, 3], with heat [h, w] in [0, 1] over it from blue through red to yellow."""
    grey = np.asarray(Image.fromarray(enlarged(image)).convert("L"), dtype=np.float64)[:, :, None]
    resized = Image.fromarray(heat.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    value = np.asarray(resized, dtype=np.float64)[:, :, None].clip(0, 1)
    colour = np.concatenate([2 * value, 2 * value - 1, 1 - 2 * value], axis=2).clip(0, 1) * 255
    share = 0.25 + 0.35 * value
    mixed: np.ndarray = ((1 - share) * grey + share * colour).round().astype(np.uint8)
    return mixed


def captioned(images: Sequence[np.ndarray], lines: Sequence[str]) -> np.ndarray:
    """Images [SIDE, SIDE, 3] side by side with lines of text below."""
    width = len(images) * (SIDE + GAP) - GAP
    panel = Image.new("RGB", (width, SIDE + LINE * len(lines)), "white")
    for column, image in enumerate(images):
        panel.paste(Image.fromarray(image), (column * (SIDE + GAP), 0))
    draw, font = ImageDraw.Draw(panel), lettering()
    for number, line in enumerate(lines):
        draw.text((0, SIDE + LINE * (number + 0.5)), line, fill=INK, font=font, anchor="lm")
    return np.asarray(panel)


def sheet(panels: Sequence[np.ndarray], per_row: int = PER_ROW) -> np.ndarray:
    """Panels of one size row by row."""
    height, width = panels[0].shape[:2]
    columns = min(per_row, len(panels))
    rows = -(-len(panels) // columns)
    whole = np.full((rows * (height + 3 * GAP) - 3 * GAP, columns * (width + 3 * GAP) - 3 * GAP, 3), 255, np.uint8)
    for index, panel in enumerate(panels):
        y, x = (place * (size + 3 * GAP) for place, size in zip(divmod(index, columns), (height, width), strict=True))
        whole[y : y + height, x : x + width] = panel
    return whole
