"""Training crops in one pass from uint8 to normalised float32, compiled by Numba (Lam et al., LLVM-HPC 2015).

Each gives, bit for bit, what torch and NumPy give in several passes. The compiled code is kept on disk beside this
file, or in the user's cache folder. Everything is indexed in flat arrays by unsigned integers: slices, and indices that
could be negative, keep the compiler from using vector instructions.
"""

from typing import Any

import numpy as np
from numba import njit

compiled: Any = njit(nogil=True, cache=True)
INT16_LIMIT = 1 << 15


@compiled
def crop_windows(
    pixels: np.ndarray,
    tops: np.ndarray,
    lefts: np.ndarray,
    flip: np.ndarray,
    padding: int,
    scale: np.ndarray,
    shift: np.ndarray,
    out: np.ndarray,
) -> None:
    """Windows of images padded with zeros, times `scale` [c] plus `shift` [c].

    Args:
        pixels: uint8 [n, c, side, side].
        tops: int64 [n], where windows begin in the padded images.
        lefts: int64 [n].
        flip: bool [n], which windows to mirror.
        padding: so many zeros on each side.
        scale: float32 [c].
        shift: float32 [c].
        out: float32 [n, c, size, size], which is filled.
    """
    num, channels, side, _ = pixels.shape
    size = out.shape[2]
    source, target = pixels.reshape(-1), out.reshape(-1)
    padded = np.zeros(side + 2 * padding, np.uint8)
    for n in range(num):
        left, right = np.uintp(lefts[n]), np.uintp(lefts[n] + size - 1)
        for c in range(channels):
            factor, offset = scale[c], shift[c]
            for y in range(size):
                row = tops[n] - padding + y
                at = np.uintp(((n * channels + c) * size + y) * size)
                if row < 0 or row >= side:
                    for x in range(size):
                        target[at + np.uintp(x)] = offset
                    continue
                begin = np.uintp(((n * channels + c) * side + row) * side)
                for x in range(side):
                    padded[np.uintp(padding + x)] = source[begin + np.uintp(x)]
                if flip[n]:
                    for x in range(size):
                        target[at + np.uintp(x)] = np.float32(padded[right - np.uintp(x)]) * factor + offset
                else:
                    for x in range(size):
                        target[at + np.uintp(x)] = np.float32(padded[left + np.uintp(x)]) * factor + offset


@compiled
def resample(box: np.ndarray, mirrored: bool, scale: np.ndarray, shift: np.ndarray, out: np.ndarray) -> None:
    """One image brought to another size bilinearly, times `scale` [c] plus `shift` [c].

    As torch does it on a CPU with vector instructions: along rows, then along columns, with weights in fixed point and
    rounding to whole values after each.

    Args:
        box: uint8 [h, w, c].
        mirrored: whether left and right are exchanged.
        scale: float32 [c].
        shift: float32 [c].
        out: float32 [c, size, size], which is filled.
    """
    height, width, channels = box.shape
    size = out.shape[1]
    source, target = box.reshape(-1), out.reshape(-1)
    left, right, first, second, precision = neighbours(width, size)
    left, right = left * channels, right * channels
    if mirrored:
        left, right, first, second = left[::-1].copy(), right[::-1].copy(), first[::-1].copy(), second[::-1].copy()
    half = np.int32(1 << (precision - 1))
    above, below, upper, lower, places = neighbours(height, size)
    rounding, unit = np.float32(1 << (places - 1)), np.float32(1 / (1 << places))
    lines = np.empty(2 * channels * size, np.uint8)  # the last even and the last odd row, at their new width
    done = -1
    for y in range(size):
        for row in range(max(above[y], done + 1), below[y] + 1):
            for c in range(channels):
                begin = np.uintp(row * width * channels + c)
                at = np.uintp((row % 2 * channels + c) * size)
                for x in range(size):
                    here = np.int32(source[begin + np.uintp(left[x])])
                    there = np.int32(source[begin + np.uintp(right[x])])
                    value = np.int32(np.int32(here * first[x]) + np.int32(there * second[x]) + half)
                    lines[at + np.uintp(x)] = value >> precision
            done = row
        weight, other = np.float32(upper[y]), np.float32(lower[y])
        for c in range(channels):
            factor, offset = scale[c], shift[c]
            one = np.uintp((above[y] % 2 * channels + c) * size)
            two = np.uintp((below[y] % 2 * channels + c) * size)
            at = np.uintp((c * size + y) * size)
            for x in range(size):
                up, down = np.float32(lines[one + np.uintp(x)]), np.float32(lines[two + np.uintp(x)])
                sample = np.floor((up * weight + down * other + rounding) * unit)  # exact: all below 2**24
                target[at + np.uintp(x)] = sample * factor + offset


@compiled
def neighbours(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """For each of `size` pixels the two of `length` that it lies between, and their weights in fixed point.

    Returns:
        Positions of the two, their weights, all int32 [size], and the binary places of the weights: as many as let the
        largest weight fit into 16 bits.
    """
    low, high = np.empty(size, np.int32), np.empty(size, np.int32)
    first, second = np.empty(size, np.int32), np.empty(size, np.int32)
    shares = np.empty(size, np.float64)
    largest = 0.0
    for i in range(size):
        centre = max(length / size * (i + 0.5) - 0.5, 0.0)
        low[i] = min(int(centre), length - 1)
        high[i] = min(low[i] + 1, length - 1)
        shares[i] = centre - low[i] if high[i] > low[i] else 0.0
        largest = max(largest, shares[i], 1.0 - shares[i])
    precision = 14
    while int(0.5 + largest * (1 << (precision + 1))) < INT16_LIMIT:
        precision += 1
    for i in range(size):
        first[i] = int(0.5 + (1.0 - shares[i]) * (1 << precision))
        second[i] = int(0.5 + shares[i] * (1 << precision))
    return low, high, first, second, precision
