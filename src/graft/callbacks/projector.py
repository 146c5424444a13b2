"""Features of images where TensorBoard's projector finds them.

The files are what `SummaryWriter.add_embedding` writes, which takes seconds for a thousand samples.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from graft.callbacks.scatter import principal_coordinates

FOLDER = "projector"
MOST_DIMENSIONS = 128  # of features that are written as they are; of longer ones, their first principal coordinates
THUMBNAIL = 32  # pixels of an image's side
Row = tuple[str, str, str]  # what the header says of a sample


def write_projector(
    folder: Path, header: Row, embeddings: Mapping[str, tuple[Tensor, Sequence[Row]]], samples: Sequence[Tensor]
) -> None:
    """Write features [n, d] with a row for each sample, by name, and a thumbnail of each image.

    Args:
        folder: that of the event files.
        header: of the rows' columns.
        embeddings: of the same samples each; left out where features are not finite.
        samples: as they are stored; images, uint8 [c, h, w], of any size.
    """
    from tensorboard.plugins.projector import ProjectorConfig, visualize_embeddings

    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    are_images = samples[0].ndim == 3
    if are_images:
        sprite(samples).save(folder / FOLDER / "thumbnails.png", compress_level=1)
    config = ProjectorConfig()
    for name, (features, rows) in embeddings.items():
        if not features.isfinite().all():
            continue
        entry = config.embeddings.add()
        entry.tensor_name = f"features, {name}"
        entry.tensor_path, entry.metadata_path = (f"{FOLDER}/{name}.{kind}.tsv" for kind in ("features", "samples"))
        if are_images:
            entry.sprite.image_path = f"{FOLDER}/thumbnails.png"
            entry.sprite.single_image_dim.extend([THUMBNAIL, THUMBNAIL])
        (folder / entry.tensor_path).write_text(table(features))
        (folder / entry.metadata_path).write_text("".join("\t".join(row) + "\n" for row in (header, *rows)))
    visualize_embeddings(str(folder), config)


def table(features: Tensor) -> str:
    """Features [n, d] as lines of numbers in five digits."""
    if features.shape[1] > MOST_DIMENSIONS:
        features = principal_coordinates(features, MOST_DIMENSIONS)[0]
    return "".join("\t".join([f"{value:.5g}" for value in row]) + "\n" for row in features.tolist())


def sprite(images: Sequence[Tensor]) -> Image.Image:
    """Thumbnails of images uint8 [c, h, w] row by row in the smallest square grid that holds them."""
    side = int(np.ceil(np.sqrt(len(images))))
    grid = torch.zeros(side * THUMBNAIL, side * THUMBNAIL, 3, dtype=torch.uint8)
    for index, image in enumerate(images):
        y, x = (place * THUMBNAIL for place in divmod(index, side))
        small = Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).numpy())
        if small.size != (THUMBNAIL, THUMBNAIL):
            small = small.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
        grid[y : y + THUMBNAIL, x : x + THUMBNAIL] = torch.from_numpy(np.array(small))
    return Image.fromarray(grid.numpy())
