"""The memory between the two passes of a pooling."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_sparse.cpu.profile import CpuProfile
from tvm_sparse.sizes.pool2d import Pool2d


@dataclass(frozen=True)
class PoolLine:
    """How a row of the image lies in memory between the two passes of a pooling.

    Attributes
    ----------
    front : int
        Values of padding before the pixels of a channel, in whole vectors.
    pitch : int
        Values from one channel to the next.
    channels : int
        Channels of a block.
    size : int
        Values of the whole line, and behind it those that loads for lanes beyond the last pixel
        reach.
    """

    front: int
    pitch: int
    channels: int
    size: int

    @staticmethod
    def of(pool: Pool2d, cpu: CpuProfile) -> PoolLine:
        """Return the line of a pooling: blocks of channels that fit half of L1."""
        width = cpu.vector_width(pool.lanes_in, pool.dtype)
        out = cpu.vector_width(pool.lanes_out, pool.dtype)
        reach = (pool.kernel[1] - 1) * pool.dilation[1] - pool.padding[1]
        front = round_up(pool.padding[1], width)
        last = (pool.out_width - 1) * pool.stride[1] + reach + 1
        pitch = front + round_up(max(last, pool.width), width)
        beyond = front + round_up(pool.out_width, out) * pool.stride[1] + reach
        most = max(cpu.l1_bytes // (2 * pool.dtype.bytes * pitch), 1)
        channels = next(c for c in range(min(most, pool.channels), 0, -1) if pool.channels % c == 0)
        size = max(channels * pitch, (channels - 1) * pitch + beyond)
        return PoolLine(front, pitch, channels, round_up(size, width))


def round_up(n: int, unit: int) -> int:
    """Return the least multiple of `unit` that is not below `n`."""
    return -(-n // unit) * unit
