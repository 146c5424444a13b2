"""What the network made of each of the target's training images when it last saw it."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from graft.adaptation.base import Adaptation
from graft.errors import UserError
from graft.regularisers.base import Beginning, Term, full_precision

CHUNK = 128  # samples whose largest similarity is looked at first


class Neighbours(NamedTuple):
    """Samples of a bank that are most like some others."""

    positions: Tensor  # [n, m]
    there: Tensor  # booleans [n, m]; False where the bank holds fewer


class Bank(nn.Module):
    """Normalised features and probabilities [N, k] by position, empty at first.

    They are buffers, and so in the checkpoints; features are [M, d], M the multiple of 128 that has room for N. They
    are those of the training views and steps in which each image was last seen, not of a pass over all images at once.
    With several processes, what the first has seen counts for all.
    """

    def __init__(self, num_samples: int, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(-(-num_samples // CHUNK) * CHUNK, num_features))  # whole chunks
        self.register_buffer("p", torch.zeros(num_samples, num_classes))
        self.register_buffer("seen", torch.zeros(num_samples, dtype=torch.bool))
        self.features: Tensor
        self.p: Tensor
        self.seen: Tensor

    @torch.no_grad()
    def put(self, positions: Tensor, features: Tensor, p: Tensor) -> None:
        """Replace what is there for positions [n] by features [n, d], which are normalised, and p [n, k]."""
        self.features[positions] = normalize(full_precision(features), dim=1).to(self.features.dtype)
        self.p[positions] = p.to(self.p.dtype)
        self.seen[positions] = True

    @torch.no_grad()
    def nearest(self, features: Tensor, positions: Tensor, num: int) -> Neighbours:
        """The `num` samples seen whose features are closest in cosine to features [n, d], without themselves.

        `positions` [n] are those of the samples themselves. A bank of N samples has at most N - 1 neighbours.
        """
        directions = normalize(full_precision(features), dim=1).to(self.features.dtype)
        num_samples = len(self.seen)
        similarity = products(directions, self.features)
        similarity[:, num_samples:] = -torch.inf
        if self.seen.device.type != "cpu" or not self.seen.all():  # elsewhere, to ask would wait for the device
            similarity[:, :num_samples].masked_fill_(~self.seen, -torch.inf)
        similarity.scatter_(1, positions[:, None], -torch.inf)
        values, found = largest(similarity, min(num, num_samples))
        return Neighbours(found.clamp_(max=num_samples - 1), values > -torch.inf)


def products(directions: Tensor, features: Tensor) -> Tensor:
    """Products of directions [n, d] and features [m, d]: [n, m], in their own dtype within autocast too.

    Those of a CPU's float32 are oneDNN's where torch has it: MKL, which `torch.mm` calls, takes twice as long on CPUs
    of AMD.
    """
    if features.device.type == "cpu" and features.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        found: Tensor = torch.ops.mkldnn._linear_pointwise(directions, features, None, "none", [], "")
        return found
    return torch.mm(directions, features.T, out=directions.new_empty(len(directions), len(features)))


def largest(values: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The `num` largest of each row of values [n, m], m a multiple of 128, from the largest on, and where they are.

    They are all in the `num` chunks of largest maximum, and a maximum is found in a fraction of the time that torch's
    `topk` takes for a row.
    """
    chunks = values.view(len(values), -1, CHUNK)
    best = chunks.amax(dim=2).topk(min(num, chunks.shape[1]), dim=1).indices  # [n, b]
    candidates = chunks.gather(1, best[:, :, None].expand(-1, -1, CHUNK)).flatten(1)
    found, places = candidates.topk(num, dim=1)
    return found, best.gather(1, places // CHUNK) * CHUNK + places % CHUNK


def bank_for(beginning: Beginning) -> Bank:
    """An empty bank for all of the target's training images."""
    head = beginning.network.head
    return Bank(len(beginning.required_target().pool), head.num_features, head.num_classes)


@dataclass(frozen=True)
class Neighbourly(Adaptation):
    """Settings of a method that looks at the nearest neighbours of each image in a bank.

    Args:
        num_neighbours: of each image.
    """

    num_neighbours: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(num_neighbours=self.num_neighbours)


def check_numbers(**numbers: int) -> None:
    """Refuse numbers of neighbours below 1.

    Raises:
        UserError: with the name of the first.
    """
    for name, value in numbers.items():
        if value < 1:
            raise UserError(f"{name}={value}; expected 1 or more")


class BankTerm(Term):
    """A method at work that remembers the target's images in a bank, which is empty at first."""

    def __init__(self, settings: Adaptation, bank: Bank) -> None:
        super().__init__()
        self.settings = settings
        self.bank = bank
