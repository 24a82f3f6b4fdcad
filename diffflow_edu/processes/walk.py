"""How particles are carried: whose noise they meet, what is kept of their way, how many at a time.

One loop over the steps, and inside it one over batches of particles. Noise is drawn for all
particles at once, then cut like them; so a batch decides the memory that the networks take, not
the result (but for rounding: a matrix product may sum in another order in another size).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diffflow_edu.labels import only
from diffflow_edu.processes.base import generator_for
from diffflow_edu.schedules import check_seed, check_whole, shortly

Seed = int | Sequence[int] | None
"""Of all particles together; or one for each; or None, torch's global generator."""

Keep = Literal["all", "end"]
"""What a Trajectory holds: every state, or its two ends alone."""


class Normals:
    """Draws of N(0, I) for n particles, (n, *shape) each.

    seed: a whole number seeds one generator for all, so that what a particle gets depends on how
        many there are. A sequence of n of them seeds one generator a particle, which then meets the
        same noise in whatever company. None draws from torch's global generator.
    size: (n, *shape). like: a tensor of the dtype and on the device wanted.

    Raises ValueError for a sequence of another length than n, and for what is no seed.

    >>> like = torch.empty(0)
    >>> torch.equal(Normals([3, 4, 5], (3, 2), like)()[1:], Normals([4, 5], (2, 2), like)())
    True
    """

    def __init__(self, seed: Seed, size: Sequence[int], like: Tensor) -> None:
        self.size, self.like = tuple(size), like
        check_seeds(seed, self.size[0])
        self.each = is_several(seed)
        seeds = list(seed) if self.each else [seed]
        self.generators = [generator_for(None if s is None else int(s), like.device) for s in seeds]

    def __call__(self) -> Tensor:
        """A draw, (n, *shape)."""
        how = {"dtype": self.like.dtype, "device": self.like.device}
        if not self.each:
            return torch.randn(self.size, generator=self.generators[0], **how)
        shape = self.size[1:]
        return torch.stack([torch.randn(shape, generator=g, **how) for g in self.generators])


def is_several(seed: Seed) -> bool:
    """Whether it is a sequence of seeds, one a particle."""
    several = isinstance(seed, Sequence) and not isinstance(seed, str)
    return several or (isinstance(seed, (Tensor, np.ndarray)) and seed.ndim == 1)


def check_seeds(seed: Seed, n: int) -> None:
    """Raise a ValueError unless seed is None, a whole number, or one for each of n particles."""
    if not is_several(seed):
        if seed is not None:
            check_seed(seed)
        return
    if len(seed) != n:
        raise ValueError(
            f"seed must be a whole number or a sequence of one a particle, {n}, got {len(seed)}"
        )
    for one in seed.tolist() if isinstance(seed, Tensor) else seed:
        check_seed(one)


class Walk:
    """The states of particles (B, *shape) on their way, all of them or the two ends.

    x: where they begin. steps: N. backward: whether they begin at state N, on the noise side.
    keep: "all" for N + 1 states, "end" for the first and the last alone, in the memory of two.
    batch: particles carried at a time; all by default.

    Raises ValueError for another keep and for batch < 1.
    """

    def __init__(
        self,
        x: Tensor,
        steps: int,
        keep: Keep = "all",
        batch: int | None = None,
        backward: bool = False,
    ) -> None:
        check_keep(keep, batch)
        # One block for all states: a thousand small ones between the networks' temporaries would
        # leave the heap in pieces, 650 MB for 2000 particles.
        self.states = x.new_empty((steps + 1 if keep == "all" else 2, *x.shape))
        self.batch, self.backward = batch or len(x), backward
        self.place = len(self.states) - 1 if backward else 0
        self.states[self.place] = x

    @property
    def x(self) -> Tensor:
        """Where the particles are, (B, *shape)."""
        return self.states[self.place]

    def move(self, step: Callable[..., Tensor], *noises: Tensor | None) -> None:
        """On to the next state: step(x, *noises), a batch at a time; noises (B, *shape) or None."""
        source = self.x
        last = 0 if self.backward else len(self.states) - 1
        if self.place != last:
            self.place += -1 if self.backward else 1
        self._write(source, step, noises)

    def stay(self, step: Callable[..., Tensor], *noises: Tensor | None) -> None:
        """The same, but it takes the place of the state that it came from."""
        self._write(self.x, step, noises)

    def ask(self, field: Callable[[Tensor], Tensor]) -> Tensor:
        """field(x) like x (B, *shape), a batch at a time."""
        parts = []
        for part in self._parts():
            with only(part):
                parts.append(field(self.x[part]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _write(self, source: Tensor, step: Callable[..., Tensor], noises: tuple) -> None:
        for part in self._parts():
            given = (None if noise is None else noise[part] for noise in noises)
            with only(part):
                self.states[self.place, part] = step(source[part], *given)

    def _parts(self) -> Iterator[slice]:
        for first in range(0, self.states.shape[1], self.batch):
            yield slice(first, first + self.batch)

    def times(self, times: Tensor) -> Tensor:
        """Of the states that were kept, like x. times: (N + 1,), of all."""
        return (times if len(self.states) == len(times) else times[[0, -1]]).to(self.states)


def check_keep(keep: Keep, batch: int | None) -> None:
    """Raise a ValueError unless keep is "all" or "end" and batch None or 1 and more."""
    if keep not in ("all", "end"):
        raise ValueError(f"keep must be 'all' or 'end', got {shortly(keep)}")
    if batch is not None:
        check_whole("batch", batch)
