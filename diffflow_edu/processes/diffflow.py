"""DiffFlow, the diffusion normalizing flow (Zhang and Chen, NeurIPS 2021, arXiv 2110.07579).

Two stochastic differential equations, one from data to noise, one back:

    dx = f(x, t) dt + g(t) dw                   forward, p_F
    dx = [f(x, t) − g(t)² s(x, t)] dt + g(t) dw  backward, p_B

Drift f and score s are learned together, so that the two give the same paths: f decides where the
particles go, s how to bring them back. Equation numbers are the paper's; `diffflow_edu.schedules`
names the coefficients k, h, s, e, b of a step.
"""

from __future__ import annotations

import copy
import math
from numbers import Real
from typing import Literal

import torch
from torch import Tensor, nn

from diffflow_edu.devices import cast_like
from diffflow_edu.labels import (
    Given,
    Labels,
    as_labels,
    bare,
    check_count,
    check_guidance,
    classes_of,
)
from diffflow_edu.nets import MLP, NoisePrediction
from diffflow_edu.processes.adjoint import path_bound, path_loss, some_steps
from diffflow_edu.processes.base import (
    Field,
    Process,
    Trajectory,
    check_data,
    check_shape,
    field_like,
    standard_normal_log_prob,
)
from diffflow_edu.processes.walk import Keep, Normals, Seed, Walk
from diffflow_edu.schedules import Schedule, check_whole, shortly
from diffflow_edu.unet import Size, UNet, check_image_shape


class DiffFlow(Process):
    """A forward and a backward SDE that share their drift, trained to have the same paths.

    drift, score: callables (x (B, *shape), t 0-d) -> (B, *shape). Modules are held, not copied,
        and trained; they must be deterministic (no dropout), since the adjoint runs them twice.
    schedule: the time grid and step coefficients.
    learn_backward_std: learn one backward standard deviation a step, starting at the schedule's.
    shape: of one particle, for `sample`; by default what the networks tell, or the data they see.

    Where the networks know classes, the model is one of all data and one of each class at once:
    bound, log_prob, encode, sample and decode take a `label`, see `given`. Without one, the model
    is that of all data.

    >>> _ = torch.manual_seed(0)
    >>> model = DiffFlow.mlp(Schedule.log_snr(steps=10))
    >>> model.bound(torch.randn(3, 2)).shape, len(model.sample(5, seed=0))
    (torch.Size([3]), 11)
    """

    taught: Tensor | None = None
    """Times at which the networks were trained, where they are others than the schedule's."""

    evaluations: int = 0
    """Of the ODE's field, in the latest `log_prob`."""

    def __init__(
        self,
        drift: Field,
        score: Field,
        schedule: Schedule,
        learn_backward_std: bool = False,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        for name, field in (("drift", drift), ("score", score)):
            if not callable(field):
                raise ValueError(f"{name} must be callable as {name}(x, t), got {shortly(field)}")
        check_schedule(schedule)
        if 0 < classes_of(drift) != classes_of(score) > 0:
            raise ValueError(
                "drift and score must know the same classes, got "
                f"{classes_of(drift)} and {classes_of(score)}"
            )
        self.drift = drift
        self.score = score
        self.schedule = schedule
        if shape is not None:
            self.shape = shape
        # log of b_i over the schedule's own b_i; zero is the paper's choice.
        self.log_b_ratio = nn.Parameter(
            torch.zeros(schedule.steps), requires_grad=learn_backward_std
        )

    @classmethod
    def mlp(
        cls,
        schedule: Schedule,
        dim: int = 2,
        hidden: int = 128,
        learn_backward_std: bool = False,
        smooth: bool = False,
        classes: int = 0,
    ) -> DiffFlow:
        """The model of this course for points in ℝ^dim: two MLPs; the drift starts at zero.

        smooth: neither has detail much finer than the noise at its t, see `MLP`. classes: that a
        `label` may name.
        """
        check_schedule(schedule)
        options = {"horizon": float(schedule.times[-1]), "classes": classes}
        options["smooth"] = schedule.noise_process if smooth else None
        drift = MLP(dim, hidden, zero_init=True, **options)
        score = NoisePrediction(MLP(dim, hidden, **options), schedule.noise_process)
        return cls(drift, score, schedule, learn_backward_std, shape=(dim,))

    @classmethod
    def unet(
        cls,
        schedule: Schedule,
        shape: tuple[int, int, int],
        size: str | Size = "small",
        learn_backward_std: bool = False,
        drift_size: str | Size | None = None,
        classes: int = 0,
    ) -> DiffFlow:
        """The model for images of a shape (C, H, W): two U-Nets; the drift starts at zero.

        size, drift_size: of the score's U-Net and the drift's, by default as large. Training walks
        every path with the drift, so a smaller one saves more than its share of the weights.
        classes: that a `label` may name.
        """
        check_schedule(schedule)
        check_image_shape(shape)
        options = {"horizon": float(schedule.times[-1]), "classes": classes}
        drift = UNet(shape[0], drift_size or size, zero_init=True, **options)
        score = NoisePrediction(UNet(shape[0], size, **options), schedule.noise_process)
        drift.shape = score.shape = tuple(shape)  # a U-Net takes any size: it is told ours
        return cls(drift, score, schedule, learn_backward_std, shape=tuple(shape))

    # By class ------------------------------------------------------------------------------------

    @property
    def classes(self) -> int:
        """How many classes the networks know; 0 where they take no label."""
        return classes_of(self.score) or classes_of(self.drift)

    def given(self, label: Labels | None, guidance: float = 0.0) -> DiffFlow:
        """The model of a class: the same networks, held, not copied, with the label bound to them.

        It is a process like any other, to be sampled, played and measured; to calibrate it is to
        calibrate this one.

        label: 0 … classes − 1, for all particles, or one for each, (B,), and then for as many only.
            `classes` is "none", the model of all data, and so is None.
        guidance: w, 0 or more. The score is then (1 + w) s(x|y) − w s(x|none), at two evaluations
            of its network (Ho and Salimans 2022): w sharpens what tells the class from others, at
            the price of variety. The drift is that of the class.

        Raises ValueError for a model without classes, for labels that are none of them, and for
        guidance without a label.

        >>> _ = torch.manual_seed(0)
        >>> model = DiffFlow.mlp(Schedule.log_snr(steps=10), classes=5)
        >>> model.given(3).sample(2, seed=0)
        Trajectory(10 steps, 2 particles of shape (2,))
        >>> model.sample(2, seed=0, label=[3, 4], guidance=1.0).start.shape
        torch.Size([2, 2])
        """
        check_guidance(guidance)
        drift, score = bare(self.drift), bare(self.score)
        if label is None and guidance:
            raise ValueError(f"guidance needs a label to guide to, got guidance={guidance:g} alone")
        if label is not None:
            if not self.classes:
                raise ValueError(
                    f"label is for a model with classes, such as {type(self).__name__}.mlp(…, "
                    f"classes=10), and this one has none; got {shortly(label)}"
                )
            label = as_labels(label, self.classes).to(self.log_b_ratio.device)
            drift = Given(drift, label) if classes_of(drift) else drift
            score = Given(score, label, float(guidance)) if classes_of(score) else score
        model = copy.copy(self)
        model._modules = dict(self._modules)
        model.drift, model.score = drift, score
        return model

    # Everything that is asked of a model at one step is in the units of its networks, whatever its
    # standardisation.

    def drift_at(self, x: Tensor, t: Tensor) -> Tensor:
        """f(x, t), like x (B, *shape), at t, 0-d. Raises ValueError for any other shape."""
        return field_like("drift", self.drift(x, t), x)

    def score_at(self, x: Tensor, t: Tensor) -> Tensor:
        """s(x, t), like x (B, *shape), at t, 0-d. Raises ValueError for any other shape."""
        return field_like("score", self.score(x, t), x)

    # The two chains ------------------------------------------------------------------------------

    def forward_mean(self, x: Tensor, i: int, schedule: Schedule | None = None) -> Tensor:
        """Where x at t_i goes on average: k x + h f(x, t_i). x: (B, *shape)."""
        c = schedule or self.schedule
        drift = self.drift_at(x, c.times[i].to(x))
        return float(c.k[i]) * x + float(c.h[i]) * drift

    def forward_step(
        self, x: Tensor, i: int, noise: Tensor, schedule: Schedule | None = None
    ) -> Tensor:
        """x_{i+1} = x_i + f_i(x_i) Δt_i + g_i √Δt_i δF_i (equation 11). noise: δF, like x."""
        c = schedule or self.schedule
        return self.forward_mean(x, i, c) + float(c.s[i]) * noise

    def backward_mean(
        self, x_next: Tensor, i: int, schedule: Schedule | None = None, lam: float = 1.0
    ) -> Tensor:
        """The mean of x_i given x_{i+1}: x' − [f(x') − g² s(x')] Δt in the paper (equation 12).

        lam: λ of the marginal-equivalent family (equation 17); 1 is the model's own backward SDE.
        """
        c = schedule or self.schedule
        t = c.times[i + 1].to(x_next)
        pull = lam**2 * float(c.e[i]) + (1 - lam**2) * float(c.e_ode[i])
        drift, score = self.drift_at(x_next, t), self.score_at(x_next, t)
        return (x_next - float(c.h[i]) * drift + pull * score) / float(c.k[i])

    def backward_std(self, schedule: Schedule | None = None) -> Tensor:
        """b, the backward noise of every step, (N,) float64 on the CPU like the schedule's."""
        return (schedule or self.schedule).b * self.log_b_ratio.cpu().double().exp()

    def backward_noise(
        self, x: Tensor, x_next: Tensor, i: int, schedule: Schedule | None = None
    ) -> Tensor:
        """The noise δB that would carry x_next back to x at step i (equation 15).

        x, x_next: (B, *shape), particles at times t_i and t_{i+1}. Returns (B, *shape).
        """
        mean = self.backward_mean(x_next, i, schedule)
        return (x - mean) / cast_like(self.backward_std(schedule)[i], x)

    # The objective -------------------------------------------------------------------------------

    def bound(
        self,
        x: Tensor,
        noise: Tensor | None = None,
        gradient: Literal["adjoint", "autograd"] = "adjoint",
        seed: Seed = None,
        label: Labels | None = None,
    ) -> Tensor:
        """−log p(x) at most, one path a particle, in nats (equations 13 to 16, constants kept).

            −log p_B(x_N) + Σ_i ½(‖δB_i‖² − ‖δF_i‖²) + d Σ_i log(b_i / s_i)

        Its mean over paths and data bounds the mean −log p of the backward chain from above.

        x: (B, *shape). noise: δF, (N, B, *shape), fixes the path; by default it is drawn from
            torch's global generator. No gradient flows into it.
        gradient: "adjoint" keeps N + 1 states and recomputes each step (Algorithm 2), "autograd"
            keeps everything. Same gradient.
        seed: of the path, that of `encode(x, seed)`, on the model's own grid; the global generator
            is then left alone. A sequence has one for each particle.
        label: of the class whose −log p(x | label) is bounded, or of each particle's; see `given`.
        Returns (B,). Without a seed a flexible grid is drawn anew in training mode, and fixed after
        `eval()`. Raises ValueError where both noise and seed are given.
        """
        if gradient not in ("adjoint", "autograd"):
            raise ValueError(f"gradient must be 'adjoint' or 'autograd', got {shortly(gradient)}")
        if label is not None:
            return self.given(label).bound(x, noise, gradient, seed)
        if gradient == "adjoint":
            _check_repeatable(self)
        schedule, x = self._checked(x, noise, seed)
        if seed is not None:
            draw = Normals(seed, x.shape, x)
            noise = torch.stack([draw() for _ in range(schedule.steps)])
        if gradient == "adjoint":
            return path_bound(self, schedule, x, noise)

        bound = self.constant(schedule, x)
        for i in range(schedule.steps):
            forward = torch.randn_like(x) if noise is None else noise[i]
            x_next = self.forward_step(x, i, forward, schedule)
            backward = self.backward_noise(x, x_next, i, schedule)
            bound = bound + 0.5 * (backward.square() - forward.square()).flatten(1).sum(1)
            x = x_next
        return bound - standard_normal_log_prob(x)

    def loss(
        self,
        x: Tensor,
        noise: Tensor | None = None,
        path_steps: int | None = None,
        label: Labels | None = None,
    ) -> Tensor:
        """The mean of `bound` over the batch, in nats, 0-d: the cheapest way to a gradient.

        path_steps: so many of the N backward steps count, drawn anew each time and weighted so
            that value and gradient keep their means. The score is evaluated for them alone, which
            is cheaper where it is the larger network, and noisier.
        label: as in `bound`.
        """
        if label is not None:
            return self.given(label).loss(x, noise, path_steps)
        _check_repeatable(self)
        schedule, x = self._checked(x, noise)
        if path_steps is None or path_steps == schedule.steps:
            return path_loss(self, schedule, x, noise)
        check_whole("path_steps", path_steps)
        if path_steps > schedule.steps:
            raise ValueError(
                f"path_steps must be at most N = {schedule.steps}, got {shortly(path_steps)}"
            )
        return path_loss(self, schedule, x, noise, some_steps(schedule.steps, path_steps))

    def log_prob(
        self,
        x: Tensor,
        seed: int | None = None,
        *,
        label: Labels | None = None,
        guidance: float = 0.0,
        **options,
    ) -> Tensor:
        """log p(x) of the probability flow in nats, by its ODE (equation 17 at λ = 0).

        Another density than the chain's, whose −log p `bound` bounds, unless the score is exact.
        x: (B, *shape). seed: of the probes, where there are any. label, guidance: of the class
        whose flow it is, see `given`. options: those of `likelihood.ProbabilityFlow`, such as
        solver, trace, start and between. Returns (B,); `model.evaluations` then tells how often
        the ODE's field was evaluated.
        """
        # Imported here, since that module builds on this one.
        from diffflow_edu.processes.likelihood import ProbabilityFlow

        flow = ProbabilityFlow(self._asked(label, guidance), **options)
        log_p = flow.log_prob(x, seed)
        self.evaluations = flow.evaluations
        return log_p

    def constant(self, schedule: Schedule, x: Tensor) -> Tensor:
        """d Σ log(b_i/s_i) in nats, the part of the bound that no particle changes.

        In the paper's chain the sum telescopes to d log(g_N/g_0). A standardisation adds d
        log(scale).
        """
        b = self.backward_std(schedule)
        return x[0].numel() * cast_like((b / schedule.s).log().sum(), x) + self._volume(x)

    def _checked(
        self, x: Tensor, noise: Tensor | None, seed: Seed = None
    ) -> tuple[Schedule, Tensor]:
        """Check the arguments of a bound; the grid to use, fresh in training if it is flexible.

        Returns it with the data in the networks' units.
        """
        entered = self._enter(x)
        if noise is not None and seed is not None:
            raise ValueError("noise and seed both say which path to take; give one of them")
        if noise is not None:
            wanted = (self.schedule.steps, *x.shape)
            if not isinstance(noise, Tensor) or noise.shape != wanted or noise.dtype != x.dtype:
                got = (tuple(noise.shape), noise.dtype) if isinstance(noise, Tensor) else noise
                raise ValueError(
                    f"noise must be a tensor (N, B, *shape) = {wanted} of {x.dtype}, "
                    f"got {shortly(got)}"
                )
        fresh = self.training and seed is None
        return self.schedule.draw() if fresh else self.schedule, entered

    def _check_data(self, x: Tensor, name: str = "x") -> None:
        # Not the backward std: it stays in its own dtype where the fields are foreign callables.
        check_data(x, (p for p in self.parameters() if p is not self.log_b_ratio), name)
        self._check_count(len(x))

    def _check_count(self, n: int) -> None:
        """Raise a ValueError where labels are bound for another number of particles than n."""
        for field in (self.drift, self.score):
            check_count(field, n)

    def _asked(self, label: Labels | None, guidance: float = 0.0) -> DiffFlow:
        """The model that is asked for: this one, where no label is named."""
        return self if label is None and guidance == 0 else self.given(label, guidance)

    @torch.no_grad()
    def calibrate(self, x: Tensor, seed: Seed = None, label: Labels | None = None) -> None:
        """Set every backward std to the best for this network and the data x (B, *shape).

        With the means fixed, the bound d log b_i + E‖x_i − mean_i‖²/(2 b_i²) is least at
        b_i² = E‖x_i − mean_i‖²/d. Estimated from B particles, that costs N/(2B) nats on others:
        give it many more particles than steps. seed: of the paths, as in `encode`. label: of the
        particles; there is one backward std for all classes.
        """
        if label is not None:
            return self.given(label).calibrate(x, seed)
        x = self._enter(x)
        draw = Normals(seed, x.shape, x)
        for i in range(self.schedule.steps):
            x_next = self.forward_step(x, i, draw())
            error = (x - self.backward_mean(x_next, i)).square().mean()
            self.log_b_ratio[i] = 0.5 * error.log().cpu() - self.schedule.b[i].log()
            x = x_next

    # The particles -------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(
        self,
        x: Tensor,
        seed: Seed = None,
        *,
        keep: Keep = "all",
        batch: int | None = None,
        label: Labels | None = None,
    ) -> Trajectory:
        """Carry data x (B, *shape) to noise by equation 11.

        seed, keep, batch, label: as in `sample`.
        """
        if label is not None:
            return self.given(label).encode(x, seed, keep=keep, batch=batch)
        x = self._enter(x)
        draw, walk = Normals(seed, x.shape, x), Walk(x, self.schedule.steps, keep, batch)
        for i in range(self.schedule.steps):
            walk.move(lambda x, noise, i=i: self.forward_step(x, i, noise), draw())
        return self._trajectory(walk)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        seed: Seed = None,
        shape: tuple[int, ...] | None = None,
        lam: float = 1.0,
        last_noise: bool = False,
        *,
        keep: Keep = "all",
        batch: int | None = None,
        label: Labels | None = None,
        guidance: float = 0.0,
    ) -> Trajectory:
        """Carry n particles from N(0, I) to data by equation 12.

        seed: a whole number decides all of them together, so the first ten of twenty are others
            than ten alone; a sequence of n has one for each, which then does not depend on n.
        shape: of one particle; by default that of the model's networks, or of the data it saw.
        lam: λ of equation 17. 1 is the backward SDE, 0 follows the probability flow.
        last_noise: whether the last step adds noise; without, it is the mean (Tweedie's formula).
        keep: "end" holds the two ends alone, times (0, T), whatever N; batch: how many particles go
            through the networks at a time. Neither changes a sample, but for rounding by `batch`.
        label: the class of all, or (n,) one for each. guidance: w. See `given`.
        """
        if label is not None or guidance:
            how = {"keep": keep, "batch": batch}
            return self.given(label, guidance).sample(n, seed, shape, lam, last_noise, **how)
        check_whole("n", n)
        check_lam(lam)
        self._check_count(n)
        shape = self.shape if shape is None else shape
        check_shape(shape)
        draw = Normals(seed, (n, *shape), self.log_b_ratio)
        return self._back(draw(), draw, lam, last_noise, keep, batch)

    @torch.no_grad()
    def decode(
        self,
        z: Tensor,
        seed: Seed = None,
        lam: float = 1.0,
        last_noise: bool = False,
        *,
        keep: Keep = "all",
        batch: int | None = None,
        label: Labels | None = None,
        guidance: float = 0.0,
    ) -> Trajectory:
        """Carry given noise z (B, *shape) to data by equation 12; `sample` draws its own.

        z: standard noise, such as `encode(x).end`. lam: 0 draws nothing and returns from
        `samplers.ddim_encode` to the data. seed: of the noise on the way. The others are those of
        `sample`.
        """
        if label is not None or guidance:
            how = {"keep": keep, "batch": batch}
            return self.given(label, guidance).decode(z, seed, lam, last_noise, **how)
        self._check_data(z, "z")
        check_lam(lam)
        return self._back(z, Normals(seed, z.shape, z), lam, last_noise, keep, batch)

    def _back(
        self,
        z: Tensor,
        draw: Normals,
        lam: float,
        last_noise: bool,
        keep: Keep,
        batch: int | None,
    ) -> Trajectory:
        b, walk = self.backward_std(), Walk(z, self.schedule.steps, keep, batch, backward=True)
        for i in reversed(range(self.schedule.steps)):

            def step(x: Tensor, noise: Tensor | None, i: int = i) -> Tensor:
                x = self.backward_mean(x, i, lam=lam)
                return x if noise is None else x + lam * b[i] * noise

            walk.move(step, draw() if lam > 0 and (i > 0 or last_noise) else None)
        return self._trajectory(walk)

    def _trajectory(self, walk: Walk) -> Trajectory:
        """In the units of the data."""
        return Trajectory(walk.times(self.schedule.times), self._leave(walk.states))


def check_lam(lam: float) -> None:
    """Raise a ValueError unless it is a λ of equation 17: a finite number, 0 or more."""
    if not (isinstance(lam, Real) and 0 <= lam < math.inf):
        raise ValueError(f"lam must be a finite number, 0 or more, got {shortly(lam)}")


def check_schedule(schedule: Schedule) -> None:
    """Raise a ValueError unless it is a Schedule."""
    if not isinstance(schedule, Schedule):
        raise ValueError(f"schedule must be a Schedule, got {shortly(schedule)}")


def _check_repeatable(model: nn.Module) -> None:
    """Raise a ValueError for a module that gives another answer when the adjoint runs it again."""
    if not torch.is_grad_enabled():
        return
    for name, module in model.named_modules():
        masks = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
        counts = isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        if module.training and (masks or counts or isinstance(module, nn.RReLU)):
            what = "would count each batch twice" if counts else "would draw twice"
            raise ValueError(
                f"{name} is a {type(module).__name__} in training mode, and the adjoint runs each "
                f"network twice, so that it {what}: leave it out, or take "
                "bound(x, gradient='autograd').mean() in place of the loss"
            )
