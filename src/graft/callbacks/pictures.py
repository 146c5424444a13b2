"""Pictures of a run's result, as uint8 [h, w, 3]; drawn by hand, since Matplotlib takes longer than a short fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from graft.data.readers.glyphs import font_files

INK, GRID = (0, 0, 0), (200, 200, 200)
BAR, OVERCONFIDENT, UNDERCONFIDENT = (8, 81, 156), (222, 102, 62), (120, 180, 220)
LINE = 20  # pixels of a row of bars
LONGEST = 160  # pixels of a bar that stands for 1
THUMBNAIL = 56  # pixels of an image that was mistaken
SIDE, SHARES = 240, 50  # pixels of a reliability diagram, and of the shares below it


def groups_picture(groups: Mapping[str, Mapping[str, Any]]) -> np.ndarray:
    """For each layer group, how far it moved relative to its start (full bar: 100 % or more) and its CKA."""
    font = lettering()
    left = 16 + max(int(font.getlength(name)) for name in groups)
    columns = {"moved_relative": left, "cka": left + LONGEST + 60}
    picture = Image.new("RGB", (left + 2 * (LONGEST + 60), LINE * (len(groups) + 1)), "white")
    draw = ImageDraw.Draw(picture)
    for x, title in zip(columns.values(), ("moved, relative to start", "CKA of before and after"), strict=True):
        draw.text((x, LINE / 2), title, fill=INK, font=font, anchor="lm")
        draw.line((x - 2, LINE, x - 2, picture.height), fill=GRID)
    for number, (name, row) in enumerate(groups.items(), 1):
        middle = (number + 0.5) * LINE
        draw.text((left - 8, middle), name, fill=INK, font=font, anchor="rm")
        for key, x in columns.items():
            value = row[key]
            length = 0 if value is None else LONGEST * min(1.0, value)
            draw.rectangle((x, middle - 6, x + length, middle + 6), fill=BAR)
            text = "–" if value is None else f"{100 * value:.1f} %" if key == "moved_relative" else f"{value:.3f}"
            draw.text((x + length + 4, middle), text, fill=INK, font=font, anchor="lm")
    return np.asarray(picture)


def reliability_picture(networks: Mapping[str, Mapping[str, Sequence[Any]]]) -> np.ndarray:
    """Reliability diagrams side by side, of the bins of `evaluation.reliability` by the network's name."""
    panels = [reliability_diagram(name, bins) for name, bins in networks.items()]
    return np.concatenate([np.asarray(panel) for panel in panels], axis=1)


def reliability_diagram(name: str, bins: Mapping[str, Sequence[Any]]) -> Image.Image:
    """Accuracy in each bin of confidence with its gap to the confidence, and below the bin's share of the samples."""
    left, top = 34, 24
    bottom, base = top + SIDE, top + SIDE + 16 + SHARES
    panel = Image.new("RGB", (left + SIDE + 20, base + 48), "white")
    draw, font = ImageDraw.Draw(panel), lettering()
    width, total = SIDE / len(bins["samples"]), sum(bins["samples"])
    rows = zip(bins["samples"], bins["confidence"], bins["accuracy"], strict=True)
    for number, (num, confidence, accuracy) in enumerate(rows):
        if num == 0 or confidence is None:  # none, or not finite
            continue
        x = round(left + number * width) + 1, round(left + (number + 1) * width) - 1
        low, high = bottom - SIDE * min(confidence, accuracy), bottom - SIDE * max(confidence, accuracy)
        gap = OVERCONFIDENT if confidence > accuracy else UNDERCONFIDENT
        draw.rectangle((x[0], high, x[1], bottom), fill=gap)
        draw.rectangle((x[0], low, x[1], bottom), fill=BAR)
        draw.rectangle((x[0], base - SHARES * num / total, x[1], base), fill=BAR)
    draw.rectangle((left, top, left + SIDE, bottom), outline=GRID)
    draw.line((left, bottom, left + SIDE, top), fill=INK)
    draw.line((left, base, left + SIDE, base), fill=GRID)
    centre = left + SIDE / 2
    draw.text((centre, top / 2), f"{name}: accuracy by confidence", fill=INK, font=font, anchor="mm")
    draw.text((left, base + 24), "underconfident by", fill=UNDERCONFIDENT, font=font, anchor="lm")
    draw.text((left + SIDE, base + 24), "overconfident by", fill=OVERCONFIDENT, font=font, anchor="rm")
    draw.text((centre, base + 38), "below: share of the samples", fill=INK, font=font, anchor="mm")
    for value in (0, 0.5, 1):
        draw.text((left - 4, bottom - SIDE * value), f"{value:g}", fill=INK, font=font, anchor="rm")
        draw.text((left + SIDE * value, base + 10), f"{value:g}", fill=INK, font=font, anchor="mm")
    return panel


def confused_picture(rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> np.ndarray:
    """Images that were mistaken, a row for each pair of classes under its heading.

    Args:
        rows: heading, and images uint8 [h, w] or [h, w, 3] of any size.
    """
    font, pitch = lettering(), THUMBNAIL + 6
    width = 6 + max(max(int(font.getlength(heading)), pitch * len(images)) for heading, images in rows)
    picture = Image.new("RGB", (width, (pitch + 20) * len(rows) + 4), "white")
    draw = ImageDraw.Draw(picture)
    for number, (heading, images) in enumerate(rows):
        top = (pitch + 20) * number
        draw.text((6, top + 11), heading, fill=INK, font=font, anchor="lm")
        for column, pixels in enumerate(images):
            thumbnail = Image.fromarray(pixels).convert("RGB").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
            picture.paste(thumbnail, (6 + pitch * column, top + 20))
    return np.asarray(picture)


def lettering() -> ImageFont.FreeTypeFont:
    """The font of all pictures."""
    return ImageFont.truetype(str(font_files()[0]), size=11)
