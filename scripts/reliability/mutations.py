"""Damage to files, as disks, networks and ill will do it."""

import random
from collections.abc import Callable

BIG = (0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF)


def mutate(content: bytes, foreign: bytes, rng: random.Random) -> bytes:
    """One to three kinds of damage in turn; the result differs from `content`.

    Args:
        content: a whole file.
        foreign: a file of another kind, from which pieces are taken.
        rng: draws kinds and places.
    """
    while True:
        damaged = content
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            damaged = rng.choice(KINDS)(damaged, foreign, rng)
        if damaged != content:
            return damaged


def truncate(content: bytes, foreign: bytes, rng: random.Random) -> bytes:
    """The end is missing, or all of it."""
    return content[: rng.choice((0, 1, rng.randint(0, len(content))))]


def flip_bits(content: bytes, foreign: bytes, rng: random.Random) -> bytes:
    """Up to eight bits, often near the beginning, where formats keep what they need."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        if damaged:
            damaged[_place(len(damaged), rng)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def overwrite(content: bytes, foreign: bytes, rng: random.Random) -> bytes:
    """A block of zeros, of ones, of noise, or of another file."""
    size, start = rng.randint(1, 64), _place(len(content) or 1, rng)
    begin = rng.randrange(len(foreign) or 1)
    block = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size), foreign[begin : begin + size]))
    return content[:start] + block + content[start + len(block) :]


def insert(content: bytes, foreign: bytes, rng: random.Random) -> bytes:
    """Bytes too many."""
    start = _place(len(content) or 1, rng)
    return content[:start] + rng.randbytes(rng.randint(1, 16)) + content[start:]


def remove(content: bytes, foreign: bytes, rng: random.Random) -> bytes:
    """Bytes too few."""
    start = _place(len(content) or 1, rng)
    return content[:start] + content[start + rng.randint(1, 64) :]


def big_number(content: bytes, foreign: bytes, rng: random.Random) -> bytes:
    """A length or a size that is far too large."""
    number = rng.choice(BIG)
    packed = number.to_bytes((number.bit_length() + 7) // 8, rng.choice(("little", "big")))
    start = _place(len(content) or 1, rng)
    return content[:start] + packed + content[start + len(packed) :]


def replace_all(content: bytes, foreign: bytes, rng: random.Random) -> bytes:
    """Another file under this one's name."""
    return foreign


def _place(length: int, rng: random.Random) -> int:
    return rng.randrange(min(length, 512) if rng.random() < 0.5 else length)


Damage = Callable[[bytes, bytes, random.Random], bytes]
KINDS: tuple[Damage, ...] = (truncate, flip_bits, flip_bits, overwrite, insert, remove, big_number, replace_all)
