"""Half the bytes: the upper halves of fp32 numbers (sign, 8 bits of exponent, 7 of fraction), without torch."""

from __future__ import annotations

import numpy as np

from regraft.types import Array, FloatArray

_QUIET = np.uint32(0x0040_0000)
_NOT_A_NUMBER = np.uint32(0x7F80_0000)
_MAGNITUDE = np.uint32(0x7FFF_FFFF)


def to_bf16(values: FloatArray) -> Array:
    """Round fp32 to bf16, ties to the even one, as IEEE 754 rounds and torch does.

    Args:
        values: fp32 numbers of any shape.

    Returns:
        The upper halves as uint16, of the same shape. What is not a number stays so.

    Example:
        >>> from_bf16(to_bf16(np.array([1.0, 3.14159, -0.1], np.float32))).tolist()
        [1.0, 3.140625, -0.10009765625]
    """
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    # Half of what is cut off, and one more where the last bit that stays is odd: adding carries upwards by itself, also from
    # the largest number to infinity. Only the fraction of something that is not a number must not be carried away.
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    odd = (bits & _MAGNITUDE) > _NOT_A_NUMBER
    if odd.any():
        rounded[odd] = bits[odd] | _QUIET
    rounded >>= np.uint32(16)
    return rounded.astype(np.uint16)


def from_bf16(halves: Array) -> FloatArray:
    """Return the fp32 numbers that the upper halves stand for, exactly.

    Args:
        halves: uint16, of any shape.
    """
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
