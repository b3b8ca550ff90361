"""The order of the training data: a function of the seed and a position, so going on needs no replay."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EndlessBatches(Sampler[list[int]]):
    """Batches of example numbers for one process, without end.

    Epoch after epoch, each in its own order, makes one stream; every step of it is dealt out to the processes
    in turn. start: examples all processes have consumed before. A batch may span two epochs; none is dropped.
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        if num_examples < 1:
            raise ValueError("the training data has no examples")
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.seed = seed
        self.start = start + rank * batch_size
        self.stride = batch_size * num_processes

    def __iter__(self) -> Iterator[list[int]]:
        position, epoch, order = self.start, -1, None
        while True:
            batch = []
            for place in range(position, position + self.batch_size):
                if place // self.num_examples != epoch:
                    epoch = place // self.num_examples
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.num_examples)
                batch.append(int(order[place % self.num_examples]))
            yield batch
            position += self.stride
