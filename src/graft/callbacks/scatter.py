"""Pictures of two domains' features in the plane, as uint8 [h, w, 3]; drawn by hand as in `pictures`."""

import colorsys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from graft.callbacks.pictures import GRID, INK, lettering

Colour = tuple[int, int, int]

SOURCE, TARGET = (24, 54, 104), (240, 90, 40)  # no class has these
# Ten colours that are easily told apart, then a lighter tone of each.
STRONG: tuple[Colour, ...] = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (110, 110, 110),
    (188, 189, 34),
    (23, 190, 207),
)
LIGHT: tuple[Colour, ...] = tuple(((r + 255) // 2, (g + 255) // 2, (b + 255) // 2) for r, g, b in STRONG)
PALETTE = STRONG + LIGHT
SIDE, MARGIN, LINE = 400, 14, 18  # pixels of a panel, of what is kept free around it, of a line of text
SHARPER = 3  # times as large as shown are points drawn, for smooth edges
RADIUS = 3  # pixels of a point
FEWEST_COLUMNS = 150  # pixels of the legend


class Plane(NamedTuple):
    """Where samples lie in a plane."""

    points: np.ndarray  # float [n, 2]
    axes: tuple[str, str]


class Samples(NamedTuple):
    """What samples of two domains are, those of the source first."""

    num_source: int
    num_target: int
    domains: tuple[str, str]  # names of source and target
    classes: np.ndarray  # int [n]: the source's labels, what is predicted of the target; empty: not to be compared
    class_names: tuple[str, ...]


def principal_coordinates(features: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Features [n, d] along their first `num` principal axes, [n, num], and the shares of variance [num] along these.

    Pearson 1901. The sign of an axis is that of its largest loading. Axes that there are not are 0.
    """
    centred = features.double() - features.double().mean(dim=0)
    u, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    largest = axes.abs().argmax(dim=1, keepdim=True)
    u = u * axes.gather(1, largest).sign().T
    shares = lengths.square() / lengths.square().sum().clamp(min=1e-300)
    missing = max(0, num - len(lengths))
    coordinates = torch.nn.functional.pad((u * lengths)[:, :num], (0, missing))
    return coordinates, torch.nn.functional.pad(shares[:num], (0, missing))


def pca_plane(features: Tensor) -> Plane:
    """The plane of the most variance."""
    points, shares = principal_coordinates(features, 2)
    first, second = (
        f"{name} principal axis, {100 * share:.0f} % of the variance"
        for name, share in zip(("first", "second"), shares.tolist(), strict=True)
    )
    return Plane(points.numpy(), (first, second))


def tsne_plane(features: Tensor) -> Plane:
    """t-SNE (van der Maaten and Hinton, JMLR 2008) as scikit-learn computes it, the same at every call."""
    from sklearn.manifold import TSNE  # takes a while to import

    perplexity = min(30.0, (len(features) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features.numpy())
    return Plane(points, ("t-SNE 1", "t-SNE 2"))


PLANES: dict[str, Callable[[Tensor], Plane]] = {"pca": pca_plane, "tsne": tsne_plane}


def domains_picture(plane: Plane | None, samples: Samples, titles: Sequence[str]) -> np.ndarray:
    """A panel coloured by domain and, where classes can be compared, one coloured by class; None shows titles alone."""
    font = lettering()
    colourings = [by_domain(samples), *([by_class(samples)] if len(samples.classes) else [])]
    lines = legend_lines(samples)
    top, column = MARGIN + LINE * len(titles), SIDE + 2 * MARGIN + LINE
    legend = len(colourings) * column + MARGIN
    right = max(legend + MARGIN + max(int(font.getlength(line.text)) for line in lines), legend + FEWEST_COLUMNS)
    width = max(right + MARGIN, *(2 * MARGIN + int(font.getlength(title)) for title in titles))
    height = top + 2 * MARGIN + LINE + max(SIDE, LINE * len(lines))
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    for number, title in enumerate(titles):
        draw.text((MARGIN, MARGIN + LINE * (number + 0.5)), title, fill=INK, font=font, anchor="lm")
    if plane is not None:
        for number, colours in enumerate(colourings):
            place = MARGIN + LINE + number * column, top + MARGIN // 2
            picture.paste(panel(plane.points, samples.num_source, colours), place)
            write_axes(picture, plane.axes, *place)
    for number, line in enumerate(lines):
        middle = top + MARGIN + LINE * (number + 0.5)
        if line.marker is not None:
            line.marker(draw, legend, middle, 4, line.colour)
        draw.text((legend + (12 if line.marker else -4), middle), line.text, fill=INK, font=font, anchor="lm")
    return np.asarray(picture)


Marker = Callable[[ImageDraw.ImageDraw, float, float, float, Colour], None]


def dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    """A point of the source."""
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def cross(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    """A point of the target."""
    width = max(2, round(0.7 * radius))
    draw.line((x - radius, y - radius, x + radius, y + radius), fill=colour, width=width)
    draw.line((x - radius, y + radius, x + radius, y - radius), fill=colour, width=width)


def square(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: Colour) -> None:
    """A class in the legend."""
    draw.rectangle((x - radius, y - radius, x + radius, y + radius), fill=colour)


class Line(NamedTuple):
    """A line of the legend."""

    text: str
    colour: Colour = INK
    marker: Marker | None = None


def legend_lines(samples: Samples) -> list[Line]:
    """Domains, and classes where they have colours; their number alone where there are too many to name."""
    source, target = samples.domains
    lines = [Line(f"{source} (source)", SOURCE, dot), Line(f"{target} (target)", TARGET, cross)]
    if len(samples.classes) == 0:
        return lines
    lines += [Line("class of the source,"), Line("predicted class of the target:")]
    names = samples.class_names
    if len(names) > len(PALETTE):
        return [*lines, Line(f"{len(names)} classes")]
    colours = class_colours(len(names))
    return lines + [Line(name, colour, square) for name, colour in zip(names, colours, strict=True)]


def by_domain(samples: Samples) -> list[Colour]:
    """The colour of each sample by its domain."""
    return [SOURCE] * samples.num_source + [TARGET] * samples.num_target


def by_class(samples: Samples) -> list[Colour]:
    """The colour of each sample by its class."""
    colours = class_colours(len(samples.class_names))
    return [colours[index] for index in samples.classes.tolist()]


def class_colours(num_classes: int) -> list[Colour]:
    """A colour for each class; beyond the palette, hues that lie a golden section apart."""
    if num_classes <= len(PALETTE):
        return list(PALETTE[:num_classes])
    hues = [(0.618034 * index) % 1.0 for index in range(num_classes)]
    return [tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, 0.85)) for hue in hues]  # type: ignore[misc]


def panel(points: np.ndarray, num_source: int, colours: Sequence[Colour]) -> Image.Image:
    """Points [n, 2] in a square of `SIDE` pixels, at one scale along both axes; domains are mixed in drawing order."""
    low, high = points.min(axis=0), points.max(axis=0)
    scale = SHARPER * (SIDE - 4 * RADIUS - 4) / max(float((high - low).max()), 1e-12)
    centre = SHARPER * SIDE / 2
    places = centre + (points - (low + high) / 2) * scale * np.array([1, -1])
    picture = Image.new("RGB", (SHARPER * SIDE, SHARPER * SIDE), "white")
    draw = ImageDraw.Draw(picture)
    for index in np.random.default_rng(0).permutation(len(points)).tolist():
        x, y = places[index].tolist()
        marker = dot if index < num_source else cross
        marker(draw, x, y, SHARPER * RADIUS, colours[index])
    small = picture.reduce(SHARPER)
    ImageDraw.Draw(small).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=GRID)
    return small


def write_axes(picture: Image.Image, axes: tuple[str, str], left: int, top: int) -> None:
    """What the axes are, below a panel and, turned, at its left."""
    font = lettering()
    draw = ImageDraw.Draw(picture)
    draw.text((left + SIDE / 2, top + SIDE + LINE / 2 + 2), axes[0], fill=INK, font=font, anchor="mm")
    upright = Image.new("RGB", (SIDE, LINE - 4), "white")
    ImageDraw.Draw(upright).text((SIDE / 2, (LINE - 4) / 2), axes[1], fill=INK, font=font, anchor="mm")
    picture.paste(upright.transpose(Image.Transpose.ROTATE_90), (left - LINE + 2, top))
