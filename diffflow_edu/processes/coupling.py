"""A coupling flow (Dinh et al., "Density estimation using real NVP", ICLR 2017).

A normalizing flow is a chain of invertible maps from data to noise, x_{i+1} = F_i(x_i). By the
change of variables, with z = x_N,

    log p(x) = log N(z; 0, I) + Σ_i log|det ∂F_i/∂x_i|.

A coupling layer is made so that both its inverse and its determinant are cheap: one half of the
coordinates passes unchanged, and decides how the other half is scaled and shifted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffflow_edu.processes.base import (
    Process,
    Trajectory,
    check_particles,
    standard_normal_log_prob,
)
from diffflow_edu.processes.walk import Keep, Normals, Seed, Walk, check_seeds
from diffflow_edu.schedules import check_whole, shortly

LARGEST_LOG_SCALE = 3.0
"""A layer scales by at most e³ ≈ 20 either way: an exp without a lid overflows sooner or later."""


class Conditioner(nn.Module):
    """The network inside a layer: from the half that stays, the other half's scale and shift.

    Two GELU layers. The last layer starts at zero, so that every flow starts as the identity. No
    Fourier features, which serve the scores so well: in 60 CPU-s on the rings a flow of 8 layers
    was no better for them, and one of 16 exploded.

    x: (B, stays). Returns log scale and shift, (B, moves) each.
    """

    def __init__(self, stays: int, moves: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(stays, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, 2 * moves),
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(log scale, shift), (B, moves) each; the log scale is bounded smoothly."""
        raw, shift = self.net(x).chunk(2, -1)
        return LARGEST_LOG_SCALE * torch.tanh(raw / LARGEST_LOG_SCALE), shift


class AffineCoupling(nn.Module):
    """One layer: every coordinate is scaled and shifted, then one half by what the other says.

        x  = e^a x + b                              actnorm (Kingma and Dhariwal 2018)
        y₁ = x₁,   y₂ = e^{s(x₁)} x₂ + t(x₁)        coupling

    The Jacobian is triangular, so log|det ∂y/∂x| = Σ a + Σ s(x₁). a and b start at zero: data here
    is normalised and the coupling starts as the identity, so there is nothing to measure first.

    dim: coordinates. hidden: width of the `Conditioner`. first_moves: whether the first half is the
        one that moves.

    >>> layer = AffineCoupling(dim=2)
    >>> y, log_det = layer(torch.ones(5, 2))
    >>> x, log_det_back = layer.inverse(y)
    >>> x.shape, bool((log_det == -log_det_back).all())
    (torch.Size([5, 2]), True)
    """

    def __init__(self, dim: int, hidden: int = 104, first_moves: bool = False) -> None:
        super().__init__()
        half = dim // 2
        first, second = slice(None, half), slice(half, None)
        self.moves, self.stays = (first, second) if first_moves else (second, first)
        self.first_moves = first_moves
        self.log_scale = nn.Parameter(torch.zeros(dim))
        self.shift = nn.Parameter(torch.zeros(dim))
        sizes = (dim - half, half) if first_moves else (half, dim - half)
        self.conditioner = Conditioner(*sizes, hidden)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Towards the noise. x: (B, dim). Returns y (B, dim) and log|det ∂y/∂x| (B,)."""
        x = self.log_scale.exp() * x + self.shift
        x_1, x_2 = x[:, self.stays], x[:, self.moves]
        s, t = self.conditioner(x_1)
        y = self._join(x_1, s.exp() * x_2 + t)
        return y, self.log_scale.sum() + s.sum(1)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Towards the data. y: (B, dim). Returns x (B, dim) and log|det ∂x/∂y| (B,)."""
        y_1, y_2 = y[:, self.stays], y[:, self.moves]
        s, t = self.conditioner(y_1)  # y₁ = x₁: no network has to be inverted
        x = self._join(y_1, (y_2 - t) * (-s).exp())
        return (x - self.shift) * (-self.log_scale).exp(), -self.log_scale.sum() - s.sum(1)

    def _join(self, stays: Tensor, moves: Tensor) -> Tensor:
        return torch.cat([moves, stays] if self.first_moves else [stays, moves], 1)


class CouplingFlow(Process):
    """A chain of affine coupling layers whose halves take turns; the exact log p comes for free.

    dim: coordinates of a particle. layers: N, the length of the chain; `layers[i]` is F_i.
    hidden: width of every layer's network; the defaults make 91 k weights in the plane.
    uneven: whether an odd dim may be split into halves that differ by one coordinate.

    Raises ValueError for dim < 2, where there is no other half, and for an odd dim unless uneven.

    >>> _ = torch.manual_seed(0)
    >>> flow = CouplingFlow(dim=2, layers=4)
    >>> flow.log_prob(torch.zeros(3, 2)), len(flow.sample(5, seed=0))
    (tensor([-1.8379, -1.8379, -1.8379], grad_fn=<AddBackward0>), 5)
    """

    bound_is_exact = True

    def __init__(
        self,
        dim: int = 2,
        layers: int = 8,
        hidden: int = 104,
        uneven: bool = False,
    ) -> None:
        super().__init__()
        check_whole("dim", dim)
        check_whole("layers", layers)
        check_whole("hidden", hidden)
        if dim == 1:
            raise ValueError(
                "dim must be 2 or more, got 1: a coupling layer moves one half of the coordinates "
                "by what the other half says, and one coordinate has no other half"
            )
        if dim % 2 and not uneven:
            raise ValueError(
                f"dim must be even to be cut in halves, got {shortly(dim)}; uneven=True lets one "
                f"half hold {dim // 2} and the other {dim - dim // 2} coordinates"
            )
        self.shape = (dim,)
        self.layers = nn.ModuleList(
            AffineCoupling(dim, hidden, first_moves=i % 2 == 1) for i in range(layers)
        )

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The whole chain. x: (B, dim). Returns z (B, dim) and log|det ∂z/∂x| (B,).

        x is in the units of the layers, also where the flow keeps a standardisation.
        """
        self._check_data(x)
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer(x)
            total = total + log_det
        return x, total

    def to_data(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The chain run back. z: (B, dim). Returns x (B, dim) and log|det ∂x/∂z| (B,)."""
        self._check_data(z, "z")
        total = z.new_zeros(len(z))
        for layer in reversed(self.layers):
            z, log_det = layer.inverse(z)
            total = total + log_det
        return z, total

    def log_prob(self, x: Tensor, seed: Seed = None) -> Tensor:
        """log p(x) = log N(z; 0, I) + log|det ∂z/∂x|, exact, in nats. x: (B, dim). Returns (B,).

        Nothing is random: seed is there for all processes, and not used.
        """
        x = self._enter(x)
        check_seeds(seed, len(x))
        z, log_det = self.to_noise(x)
        return self._per_data(standard_normal_log_prob(z) + log_det, x)

    def bound(self, x: Tensor, seed: Seed = None) -> Tensor:
        """−log p(x) itself, in nats. x: (B, dim). Returns (B,). seed: not used."""
        return -self.log_prob(x, seed)

    @torch.no_grad()
    def encode(
        self, x: Tensor, seed: Seed = None, *, keep: Keep = "all", batch: int | None = None
    ) -> Trajectory:
        """Carry data x (B, dim) to noise, one state a layer. Nothing is drawn: seed is not used.

        keep, batch: as in `sample`.
        """
        x = self._enter(x)
        check_seeds(seed, len(x))
        walk = Walk(x, len(self.layers), keep, batch)
        for layer in self.layers:
            walk.move(lambda x, layer=layer: layer(x)[0])
        return self._trajectory(walk)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        seed: Seed = None,
        shape: tuple[int, ...] | None = None,
        *,
        keep: Keep = "all",
        batch: int | None = None,
    ) -> Trajectory:
        """Draw n particles from N(0, I) and carry them to data.

        seed: a whole number decides all of them together, so the first ten of twenty are others
            than ten alone; a sequence of n has one for each, which then does not depend on n.
        shape: (dim,), if it is given.
        keep: "end" holds the two ends alone, times (0, 1); batch: how many particles go through a
            layer at a time. Neither changes a sample, but for rounding by `batch`.
        """
        check_whole("n", n)
        if shape is not None and not (isinstance(shape, Sequence) and tuple(shape) == self.shape):
            raise ValueError(f"shape must be that of the flow, {self.shape}, got {shortly(shape)}")
        draw = Normals(seed, (n, *self.shape), self.layers[0].shift)
        return self.decode(draw(), keep=keep, batch=batch)

    @torch.no_grad()
    def decode(
        self, z: Tensor, seed: Seed = None, *, keep: Keep = "all", batch: int | None = None
    ) -> Trajectory:
        """Carry given noise z (B, dim) back to data: the inverse of `encode`. seed: not used."""
        self._check_data(z, "z")
        check_seeds(seed, len(z))
        walk = Walk(z, len(self.layers), keep, batch, backward=True)
        for layer in reversed(self.layers):
            walk.move(lambda z, layer=layer: layer.inverse(z)[0])
        return self._trajectory(walk)

    def _trajectory(self, walk: Walk) -> Trajectory:
        """In the units of the data."""
        like = walk.states
        times = torch.linspace(0, 1, len(self.layers) + 1, dtype=like.dtype, device=like.device)
        return Trajectory(walk.times(times), self._leave(walk.states))

    def _check_data(self, x: Tensor, name: str = "x") -> None:
        check_particles(x, name)
        if x.shape[1:] != self.shape:
            raise ValueError(f"{name} must have shape (B, {self.shape[0]}), got {tuple(x.shape)}")
        ours = self.layers[0].shift.dtype
        if x.dtype != ours:
            raise ValueError(
                f"{name} must be {ours} like the flow's weights, got {x.dtype}; convert it with "
                f"{name}.float() or {name}.double(), or the flow with flow.double()"
            )
