"""Maximum mean discrepancy, for the methods that minimise it."""

import torch
from torch import Tensor

from graft.regularisers.base import full_precision

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the bandwidth, one for each kernel


def squared_distances(x: Tensor) -> Tensor:
    """||x_i - x_j||^2 [n, n] of x [n, d], in float32 at least; 0 on the diagonal."""
    centred = full_precision(x)
    centred = centred - centred.mean(dim=0)  # leaves the distances, and fewer digits cancel in what follows
    products = centred @ centred.T
    norms = products.diagonal()
    return (norms[:, None] + norms[None, :] - 2.0 * products).clamp_min(0.0)


def multi_kernel(x: Tensor) -> Tensor:
    """The mean of five Gaussian kernels exp(-||x_i - x_j||^2 / (2 c b)) [n, n] of x [n, d], c = 2^-2, ..., 2^2.

    b is the mean of the squared distances, which takes no gradient; where all x are equal, every kernel is 1.
    Long et al., "Learning transferable features with deep adaptation networks", ICML 2015, has a convex combination of
    kernels; here all have the same weight.
    """
    distances = squared_distances(x)
    bandwidth = distances.detach().mean().clamp_min(torch.finfo(distances.dtype).eps)
    kernels = [torch.exp(-distances / (2.0 * factor * bandwidth)) for factor in FACTORS]
    return torch.stack(kernels).mean(dim=0)


def mmd(kernel: Tensor, num_source: int) -> Tensor:
    """Squared maximum mean discrepancy, a scalar, of a kernel [n, n] over the source's samples and then the target's.

    The biased estimate of Gretton et al., "A kernel two-sample test", JMLR 2012, equation 5: never below 0, and 0 for
    two equal samples. Source and target may differ in number.
    """
    within_source = kernel[:num_source, :num_source].mean()
    within_target = kernel[num_source:, num_source:].mean()
    return within_source + within_target - 2.0 * kernel[:num_source, num_source:].mean()
