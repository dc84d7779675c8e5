"""Products, convolutions and attention of given shapes -> operations, and numbers that pass through memory.

A multiplication with its addition counts as two operations, as torch's counter has it; nothing else is counted. Knows
nothing of models or of hardware.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """What one image costs.

    flops: operations. weights: parameters read, once for a whole batch. activations: numbers that products read and
    write beside the weights.
    """

    flops: float = 0.0
    weights: float = 0.0
    activations: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops, self.weights + other.weights, self.activations + other.activations
        )

    def __mul__(self, times: float) -> Work:
        """The same, done `times` times after each other."""
        return Work(self.flops * times, self.weights * times, self.activations * times)

    def moved(self, batch: float, number_bytes: int) -> float:
        """Bytes that pass through memory for each image of a batch."""
        return (self.activations + self.weights / batch) * number_bytes


def linear(rows: float, inputs: int, outputs: int) -> Work:
    """(rows, inputs) -> (rows, outputs)."""
    return Work(2.0 * rows * inputs * outputs, float(inputs * outputs), rows * (inputs + outputs))


def attention(queries: float, keys: float, width: int) -> Work:
    """`queries` rows attend to `keys` rows; width: of all heads together."""
    return Work(4.0 * queries * keys * width, 0.0, 2.0 * (queries + keys) * width)


def convolution(pixels: int, inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> Work:
    """A square kernel with stride 1 over `pixels` positions."""
    weights = inputs * outputs * kernel**2 / groups
    return Work(2.0 * pixels * weights, weights, float(pixels * (inputs + outputs)))
