"""What became of the weights that transfer started from: how far each layer group moved, and what it gives since."""

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graft.batch import in_dtype
from graft.data.domain import Domain
from graft.features import in_eval_mode
from graft.models.backbones.base import Backbone

BATCH_SIZE = 64  # images whose outputs are compared at a time
FEWEST_IMAGES = 4  # that the unbiased estimate needs


@torch.no_grad()
def compare_with_start(
    backbone: Backbone, start: dict[str, Tensor], domain: Domain, num_images: int, device: torch.device
) -> dict[str, Any]:
    """How a backbone differs from what it was before it was trained.

    Args:
        backbone: as training left it.
        start: its state before.
        domain: what it was trained on.
        num_images: CKA looks at so many of the domain's val and train images at most; 0 for no CKA.
        device: where the outputs are computed.

    Returns:
        `moved` and `moved_relative` of all parameters (see `distance`); `images`, on which CKA was taken; and `groups`:
        for each layer group, from input to output, `moved` and `moved_relative` of its parameters, `buffers_moved` and
        `buffers_moved_relative` of its floating-point buffers (None where it has none), and `cka` (see `linear_cka`)
        between what it gives before and after. That is 1 by definition up to the first group that changed, and None
        where it is not taken or not defined.
    """
    dtype = next(backbone.parameters()).dtype
    before = deepcopy(backbone).to(torch.get_default_dtype())  # in which a backbone is given its weights
    before.load_state_dict(start)
    before.to(dtype)
    pairs = zip(before.layer_groups.values(), backbone.layer_groups.values(), strict=True)
    groups = {name: group_distance(*pair) for name, pair in zip(backbone.layer_groups, pairs, strict=True)}
    changed = [bool(row["moved"] or row["buffers_moved"]) for row in groups.values()]
    num_unchanged = changed.index(True) if any(changed) else len(changed)
    images = sample_images(domain, num_images) if num_images and any(changed) else torch.empty(0)
    similarity: dict[str, float | None] = dict.fromkeys(list(groups)[:num_unchanged], 1.0)
    if len(images) >= FEWEST_IMAGES:
        similarity |= compare_outputs(before, backbone, num_unchanged, domain, images, device)
    moved, relative = distance(before.parameters(), backbone.parameters())
    return {
        "moved": moved,
        "moved_relative": relative,
        "images": len(images),
        "groups": {name: row | {"cka": similarity.get(name)} for name, row in groups.items()},
    }


def group_distance(before: nn.Module, after: nn.Module) -> dict[str, float | None]:
    """How far a layer group's parameters and floating-point buffers (running statistics) moved; see `distance`."""
    moved, relative = distance(before.parameters(), after.parameters())
    buffers = [[tensor for tensor in group.buffers() if tensor.is_floating_point()] for group in (before, after)]
    buffers_moved, buffers_relative = distance(*buffers) if buffers[0] else (None, None)
    return {
        "moved": moved,
        "moved_relative": relative,
        "buffers_moved": buffers_moved,
        "buffers_moved_relative": buffers_relative,
    }


def distance(before: Iterable[Tensor], after: Iterable[Tensor]) -> tuple[float, float | None]:
    """Euclidean distance between two lists of tensors, each as one vector, and its ratio to the length of the first.

    The ratio of nothing to nothing is 0; that of something to nothing is None.
    """
    pairs = list(zip(before, after, strict=True))
    moved, length = norm([new - old for old, new in pairs]), norm([old for old, _ in pairs])
    return moved, moved / length if length else None if moved else 0.0


def norm(tensors: Sequence[Tensor]) -> float:
    """The length of several tensors as one vector, summed in float64."""
    lengths = (torch.linalg.vector_norm(tensor.detach().cpu(), dtype=torch.float64) for tensor in tensors)
    return math.hypot(*map(float, lengths))


def sample_images(domain: Domain, num_images: int) -> Tensor:
    """At most so many images, uint8 [n, c, canvas, canvas]: of val first, then of train, spread evenly over each."""
    parts: list[Tensor] = []
    for split in ("val", "train"):
        dataset = domain.datasets[split]
        num = min(len(dataset), num_images - sum(len(part) for part in parts))
        if num:
            parts.append(dataset[np.linspace(0, len(dataset) - 1, num).round().astype(np.int64)].x)
    return torch.cat(parts)


def compare_outputs(
    before: Backbone, after: Backbone, num_unchanged: int, domain: Domain, images: Tensor, device: torch.device
) -> dict[str, float | None]:
    """`linear_cka` of what each layer group but the first `num_unchanged` gives before and after, by its name.

    Images go through what did not change once, in eval mode under the evaluation view, in batches of about equal size.
    What a group gives is flattened, so maps count with all their places: [n, c, h, w] as [n, c * h * w].
    """
    cut = max(cut for cut in after.cut_points() if cut <= num_unchanged)
    names = list(after.layer_groups)[num_unchanged:]
    grams: dict[str, tuple[list[Tensor], list[Tensor]]] = {name: ([], []) for name in names}
    dtype = next(after.parameters()).dtype
    num_batches = -(-len(images) // BATCH_SIZE)
    with in_eval_mode(before, device), in_eval_mode(after, device):
        for first in range(num_batches):
            x = in_dtype(domain.view.evaluate(images[first::num_batches].to(device)), dtype)
            x = after.forward_to(cut, x)
            for side, backbone in enumerate((before, after)):
                for name, gram in group_grams(backbone, names, cut, x).items():
                    grams[name][side].append(gram)
    return {name: linear_cka(*pair) for name, pair in grams.items()}


def group_grams(backbone: Backbone, names: Sequence[str], cut: int, x: Tensor) -> dict[str, Tensor]:
    """`centred_gram` of what each named layer group gives, where the backbone goes on from x after `cut` groups.

    The output of a group is that of the module in it which is called last; of several outputs the first.
    """
    grams: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        if isinstance(output, Tensor) and len(output) == len(x):
            grams[name] = centred_gram(output)

    groups = backbone.layer_groups
    parts = [(name, part) for name in names for part in called_parts(groups[name])]
    hooks = [part.register_forward_hook(partial(keep, name)) for name, part in parts]
    backbone.forward_from(cut, x)
    for hook in hooks:
        hook.remove()
    return grams


def called_parts(module: nn.Module) -> list[nn.Module]:
    """The module itself, or where it cannot be called, as a view of other modules cannot, those inside that can."""
    if type(module).forward is not nn.Module.forward:
        return [module]
    return [part for child in module.children() for part in called_parts(child)]


def centred_gram(features: Tensor) -> Tensor:
    """The U-centred linear Gram matrix of features [n, ...], n >= 4: float64 [n, n] on the CPU, 0 on the diagonal.

    Székely and Rizzo, "Partial distance correlation with methods for dissimilarities", Annals of Statistics 2014. The
    sum of the products of two such matrices' entries, over n (n - 3), is the unbiased estimate of HSIC (Song et al.,
    "Feature selection via dependence maximization", JMLR 2012). Features that differ by rounding alone give 0.
    """
    x = features.flatten(1)
    x = x if x.dtype == torch.float64 else x.float()
    centred = x - x.mean(dim=0)
    if torch.linalg.vector_norm(centred) <= 10 * torch.finfo(x.dtype).eps * torch.linalg.vector_norm(x):
        return torch.zeros(len(x), len(x), dtype=torch.float64)
    gram = (centred @ centred.T).cpu().double().fill_diagonal_(0)
    rows = gram.sum(dim=1) / (len(x) - 2)
    gram = gram - rows[:, None] - rows + rows.sum() / (len(x) - 1)
    return gram.fill_diagonal_(0)


def linear_cka(before: Sequence[Tensor], after: Sequence[Tensor]) -> float | None:
    """Linear centred kernel alignment (CKA) of two representations of the same samples, in [0, 1].

    1 means that one is a rotated, shifted and scaled copy of the other. Kornblith et al., "Similarity of neural network
    representations revisited", ICML 2019, equation 4, with the unbiased estimate of HSIC, which unlike the plain one
    does not near 1 where samples are fewer than features, summed over minibatches: Nguyen, Raghu and Kornblith, "Do
    wide and deep networks learn the same things?", ICLR 2021.

    Args:
        before: `centred_gram` of the one, for each minibatch.
        after: that of the other.

    Returns:
        None where a representation is the same for all samples, or not finite. The estimate can fall below 0 for
        representations that have nothing to do with each other; then it is given as 0.
    """
    cross, first, second = (
        sum(float((x * y).sum()) for x, y in zip(*sides, strict=True))
        for sides in ((before, after), (before, before), (after, after))
    )
    scale = math.sqrt(first) * math.sqrt(second)
    if not scale > 0 or not math.isfinite(cross / scale):
        return None
    return min(1.0, max(0.0, cross / scale))
