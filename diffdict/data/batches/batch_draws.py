"""What numpy's `default_rng([seed, epoch, picture])` draws first, for a batch of pictures at once.

A generator a picture costs more than the picture. These are its numbers, by arrays: the seed
sequence's hash (O'Neill 2015) and PCG64's steps (O'Neill 2014), which numpy keeps as they are.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt32, UInt64

INIT_A, MULT_A, INIT_B, MULT_B = 0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED
MIX_L, MIX_R, POOL, SHIFT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715), 4, np.uint32(16)
STEP = 0x2360ED051FC65DA44385DF649FCCF645  # of PCG64
WORD = 2**32
HALF, LOW = np.uint64(32), np.uint64(WORD - 1)

Wide = tuple[np.ndarray, np.ndarray]  # numbers of 128 bits, as their high and low 64


class FirstDraws(NamedTuple):
    """`random() < 0.5`, then `integers(0, most, size=2)`, of each generator."""

    halves: Bool[np.ndarray, " pictures"]
    places: Int64[np.ndarray, "pictures 2"]


def first_draws(seed: int, keys: Sequence[tuple[int, int]], most: int) -> FirstDraws:
    """Of the generators of these (epoch, picture)."""
    if max(seed, *(max(key) for key in keys)) >= WORD:  # such numbers are two words each
        every = [_by_numpy(seed, key, most) for key in keys]
        return FirstDraws(*(np.stack(draws) for draws in zip(*every, strict=True)))
    words = np.array([(seed, *key) for key in keys])
    state, step = _seeded(words.astype(np.uint32))
    state = _advanced(state, step)
    halves = _output(state) >> np.uint64(63) == 0
    pair = _output(_advanced(state, step))
    draws = np.stack([pair & LOW, pair >> HALF], axis=1) * np.uint64(most)
    places = (draws >> HALF).astype(np.int64)
    for row in np.nonzero(((draws & LOW) < WORD % most).any(1))[0]:  # one in a billion
        places[row] = _by_numpy(seed, keys[row], most)[1]
    return FirstDraws(halves, places)


def _by_numpy(seed: int, key: tuple[int, int], most: int) -> tuple[bool, Int64[np.ndarray, " 2"]]:
    """The draws of one generator."""
    generator = np.random.default_rng([seed, *key])
    return generator.random() < 0.5, generator.integers(0, most, size=2)


def _seeded(words: UInt32[np.ndarray, "pictures 3"]) -> tuple[Wide, Wide]:
    """PCG64's state and increment, from a seed sequence of these words."""
    state = _generated(_pool(words))
    initial, sequence = ((state[at], state[at + 1]) for at in (0, 2))
    one = np.uint64(1)
    increment = sequence[0] << one | sequence[1] >> np.uint64(63), sequence[1] << one | one
    return _advanced(_sum(increment, initial), increment), increment


def _pool(words: UInt32[np.ndarray, "pictures 3"]) -> list[UInt32[np.ndarray, " pictures"]]:
    """Four words into which all are mixed."""
    constants = _powers(INIT_A, MULT_A)
    empty = np.zeros(len(words), np.uint32)
    pool = [_hashed(word, constants) for word in (*words.T, empty)]
    for source in range(POOL):
        for place in range(POOL):
            if place != source:
                mixed = MIX_L * pool[place] - MIX_R * _hashed(pool[source], constants)
                pool[place] = mixed ^ mixed >> SHIFT
    return pool


def _generated(
    pool: Sequence[UInt32[np.ndarray, " pictures"]],
) -> list[UInt64[np.ndarray, " pictures"]]:
    """Four words of 64 bits from the pool."""
    constants = _powers(INIT_B, MULT_B)
    half = [_hashed(pool[at % POOL], constants).astype(np.uint64) for at in range(2 * POOL)]
    return [low | high << HALF for low, high in zip(half[::2], half[1::2], strict=True)]


def _powers(first: int, factor: int) -> Iterator[tuple[np.uint32, np.uint32]]:
    """A constant before and after each hash."""
    while True:
        following = first * factor % WORD
        yield np.uint32(first), np.uint32(following)
        first = following


def _hashed(
    word: UInt32[np.ndarray, " pictures"], constants: Iterator[tuple[np.uint32, np.uint32]]
) -> UInt32[np.ndarray, " pictures"]:
    before, after = next(constants)
    hashed = (word ^ before) * after
    return hashed ^ hashed >> SHIFT


def _sum(first: Wide, second: Wide) -> Wide:
    low = first[1] + second[1]
    return first[0] + second[0] + (low < first[1]), low


def _advanced(state: Wide, increment: Wide) -> Wide:
    """A step of the generator: state × STEP + increment."""
    high, low = state
    times_high, times_low = np.uint64(STEP >> 64), np.uint64(STEP % 2**64)
    carried = _high_product(low, times_low) + high * times_low + low * times_high
    return _sum((carried, low * times_low), increment)


def _high_product(first: UInt64[np.ndarray, " n"], second: np.uint64) -> UInt64[np.ndarray, " n"]:
    """The upper 64 bits of the product."""
    a, b, c, d = first >> HALF, first & LOW, second >> HALF, second & LOW
    middle = (b * d >> HALF) + (a * d & LOW) + (b * c & LOW)
    return a * c + (a * d >> HALF) + (b * c >> HALF) + (middle >> HALF)


def _output(state: Wide) -> UInt64[np.ndarray, " pictures"]:
    """64 random bits: both halves, turned by the uppermost six bits."""
    mixed, turn = state[0] ^ state[1], state[0] >> np.uint64(58)
    return mixed >> turn | mixed << (-turn & np.uint64(63))
