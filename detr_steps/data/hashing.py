"""Random numbers that are a pure function of (seed, index): the same on every machine.

A generator that is asked in order gives item 7 only after items 0 to 6. Here each
number is a hash of where it is used, so any item can be drawn alone, on any device.
"""

import torch
from torch import Tensor

MASK = 0xFFFFFFFF


def mix(x: Tensor) -> Tensor:
    """Scramble 32-bit words held in int64; whole-number operations only.

    Source: the multiply-and-shift family of integer hashes (Wellons, 2018).
    """
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & MASK
    return x ^ (x >> 16)


def words(keys: Tensor, count: int) -> Tensor:
    """Draw `count` 32-bit words for each key: `[...] int64 -> [..., count] int64`."""
    slots = torch.arange(1, count + 1, device=keys.device) * 0x9E3779B9
    return mix(mix(keys[..., None] & MASK) ^ (slots & MASK))


def uniform(random_words: Tensor) -> Tensor:
    """Turn 32-bit words into float32 in [0, 1): 24 bits, so the division is exact."""
    return (random_words >> 8).float() / (1 << 24)


def pick(random_words: Tensor, count: int) -> Tensor:
    """Turn 32-bit words into whole numbers 0 … count - 1."""
    return (random_words * count) >> 32


def key(*parts: int) -> int:
    """Fold whole numbers (seed, split, purpose …) into one 32-bit key."""
    state = torch.zeros((), dtype=torch.int64)
    for part in parts:
        state = mix(state ^ (part & MASK)) + 0x9E3779B9
    return int(mix(state & MASK))
