"""Notebook 06: what survives of a mode, its chance level, the noise budget, and verdicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffflow_edu.exercises.checking import Slip, check_function


def check_mode_survival(answer: Any) -> bool:
    """Exercise 1: answer(latent, modes) is the share whose nearest neighbour has their mode.

    latent: x_T (n, 2); modes: (n,) whole numbers. Returns a 0-d tensor.
    """
    draw = torch.Generator().manual_seed(1)
    cases = []
    for n, kinds in ((12, 3), (40, 5)):
        latent = torch.randn(n, 2, generator=draw, dtype=torch.float64)
        cases.append((latent, torch.randint(kinds, (n,), generator=draw)))
    slips = [
        Slip(
            lambda latent, modes: torch.ones(()),
            "every particle found itself: the nearest point to a particle is the particle. Put "
            "infinity on the diagonal of the distances.",
        ),
        Slip(
            lambda latent, modes: 1 - _mode_survival(latent, modes),
            "this is the share of those whose neighbour has another mode.",
        ),
        Slip(
            lambda latent, modes: _agreements(latent, modes).sum(),
            "this is how many; the share is the mean.",
        ),
        Slip(_agreements, "one answer a particle; the share is their mean."),
        Slip(
            lambda latent, modes: modes[_nearest(latent)].double(),
            "these are the neighbours' modes; compare them with the particles' own.",
        ),
        Slip(
            lambda latent, modes: _nearest(latent).double(),
            "these are the neighbours' indices; look up their modes with modes[nearest].",
        ),
        Slip(
            lambda latent, modes: _share(modes[torch.cdist(latent, latent).argmax(1)] == modes),
            "this asks the farthest particle: take the argmin of the distances.",
        ),
        Slip(
            lambda latent, modes: _share(_nearest(latent) == modes),
            "an index is not a mode: compare modes[nearest] with modes.",
        ),
    ]
    praise = "right: a neighbour that knows your mode means that the mode is still there."
    return check_function("mode_survival", answer, _mode_survival, slips, cases, praise)


def check_chance_level(answer: Any) -> bool:
    """Exercise 2: answer(modes) is the mean survival of modes dealt at random, (n_m, n) alone.

    modes: (n,) whole numbers. Returns a 0-d tensor, Σ n_m (n_m − 1)/(n (n − 1)).
    """
    cases = [
        (torch.tensor([0, 0, 0, 1, 1, 2]),),
        (torch.tensor([4, 4, 4, 4, 1, 1, 1, 0, 0, 2, 4]),),
    ]
    slips = [
        Slip(
            lambda modes: 1.0 / len(_counts(modes)) * torch.ones(()),
            "one over the number of modes is right only where all have as many particles.",
        ),
        Slip(
            lambda modes: (_counts(modes) / len(modes)).square().sum(),
            "nearly: a particle is not its own neighbour, so n_m − 1 of the n − 1 others share "
            "its mode.",
        ),
        Slip(
            lambda modes: (_counts(modes) / len(modes)).max(),
            "that is how often the commonest mode is right: a guesser who knows the shares. A "
            "neighbour has a mode of its own.",
        ),
        Slip(
            lambda modes: _counts(modes) * (_counts(modes) - 1) / (len(modes) * (len(modes) - 1)),
            "one term a mode; the chance is their sum.",
        ),
        Slip(
            lambda modes: (_counts(modes) * (_counts(modes) - 1)).sum() / len(modes) ** 2,
            "the partner is drawn from the n − 1 others: divide by n (n − 1).",
        ),
        Slip(
            lambda modes: _counts(modes).square().sum() / (len(modes) * (len(modes) - 1)),
            "the partner is one of the n_m − 1 other particles of the mode, not of all n_m.",
        ),
        Slip(
            lambda modes: ((_counts(modes) - 1) / (len(modes) - 1)).mean(),
            "the modes differ in size: weigh each by n_m/n, the chance to draw it first.",
        ),
        Slip(
            lambda modes: 1 - _chance_level(modes),
            "this is the chance that the two modes differ.",
        ),
    ]
    praise = "right: where nothing survives, this is what is left."
    return check_function("chance_level", answer, _chance_level, slips, cases, praise)


def check_r_max(answer: Any) -> bool:
    """Exercise 3: answer(budget) is the r_max = √(e^B − 1) whose chain injects B = ∫ g² dt.

    budget: B, (m,), positive. Returns (m,).
    """
    budgets = torch.tensor([0.001, 0.3, 1.0, 4.0], dtype=torch.float64)
    cases = [(budgets,), (budgets.flip(0) / 2,)]
    slips = [
        Slip(
            lambda budget: budget.exp() - 1,
            "this is r_max²: the root is missing.",
        ),
        Slip(
            lambda budget: budget.exp().sqrt(),
            "without any noise, B = 0, r_max must be 0: e^B = 1 + r_max², so subtract the 1.",
        ),
        Slip(
            lambda budget: budget.sqrt(),
            "right where B is small, since log(1 + r²) ≈ r². At B = 4 it is not.",
        ),
        Slip(
            lambda budget: (1 + budget.square()).log(),
            "that is log(1 + B²); the exercise goes the other way, from B to r_max.",
        ),
        Slip(
            lambda budget: (2 * budget).expm1().sqrt(),
            "this solves log(1 + r²) = 2 B: no 2 comes out of ∫ d/dt log(1 + r²) dt.",
        ),
        Slip(
            lambda budget: (1 + budget).log(),
            "that is B from r_max², with r_max² = B; solve B = log(1 + r_max²) for r_max.",
        ),
        Slip(
            lambda budget: (1 + budget).log().sqrt(),
            "the inverse of log is exp: B = log(1 + r²) gives e^B = 1 + r².",
        ),
        Slip(
            lambda budget: (1 - (-budget).exp()).sqrt(),
            "that is σ(T) = √(1 − α²), with α² = e^−B; the ratio r = σ/α is asked for.",
        ),
    ]
    praise = "right: B = 0.001 gives r_max = 0.03, B = 4 gives 7.3."
    return check_function("r_max", answer, _r_max, slips, cases, praise)


def check_outcome(answer: Any) -> bool:
    """Exercise 4: answer(effect, spread, margin) is 1 for, −1 against or 0 a tie, of every case.

    effect, spread: (k,); margin: 0-d. Returns (k,).
    """
    effect = torch.tensor([0.5, 0.05, -0.4, 0.02, -0.03, 0.3, 0.005, 0.105], dtype=torch.float64)
    spread = torch.tensor([0.1, 0.2, 0.1, 0.01, 0.01, 0.0, 0.02, 0.1], dtype=torch.float64)
    cases = [
        (effect, spread, torch.tensor(0.04, dtype=torch.float64)),
        (-effect, spread, torch.tensor(0.01, dtype=torch.float64)),
    ]
    slips = [
        Slip(
            lambda effect, spread, margin: effect.sign(),
            "the sign alone: an effect smaller than its spread over seeds may turn with the next "
            "seed.",
        ),
        Slip(
            lambda effect, spread, margin: _beyond(effect, spread),
            "the margin is missing: with one seed the spread is 0, and any difference would count.",
        ),
        Slip(
            lambda effect, spread, margin: _beyond(effect, margin * torch.ones_like(effect)),
            "the spread is missing: what changes from seed to seed is no finding.",
        ),
        Slip(
            lambda effect, spread, margin: _beyond(effect, spread + margin),
            "take the larger of spread and margin, not their sum.",
        ),
        Slip(
            lambda effect, spread, margin: 2.0 * (effect > spread.clamp_min(margin)) - 1,
            "what is not for the claim is not yet against it: between them lies no difference, 0.",
        ),
        Slip(
            lambda effect, spread, margin: (effect.abs() > spread.clamp_min(margin)).double(),
            "an effect against the claim is large, too: keep its sign.",
        ),
        Slip(
            lambda effect, spread, margin: (effect > spread.clamp_min(margin)).double(),
            "cases against the claim are missing: −1 where the effect is below −max(…).",
        ),
        Slip(
            lambda effect, spread, margin: _beyond(effect, spread.clamp_max(margin)),
            "this takes the smaller of spread and margin: an effect must pass both.",
        ),
    ]
    praise = "right: for, against, or no difference, and no opinion in it."
    return check_function("outcome", answer, _outcome, slips, cases, praise)


HOLDS, HOLDS_WHEN, MIXED, FAILS = 3, 2, 1, 0


def check_verdict(answer: Any) -> bool:
    """Exercise 5: answer(conditions) is 3 holds, 2 holds when …, 1 mixed or 0 does not hold.

    conditions: a list; for each condition the outcomes 1, 0 or −1 of its comparisons, (k,). The
    rule is that of `benchmarks.ledger`.
    """
    claims = [
        [[1, 1, 1]],
        [[1, 1, 0, 0]],
        [[1, 1, 1, 1, 1], [1, 1, 1, 1, -1]],
        [[1, 1, -1]],
        [[1, 1], [-1, -1, -1]],
        [[1, 1], [0, -1]],
        [[0, 0], [-1, -1]],
        [[1, 1, 1, 1], [-1], [-1]],
        [[1, 0], [1, 1, 1, 0]],
        [[1, 1, 0], [1, 1, 1]],
    ]
    cases = [([torch.tensor(each) for each in claim],) for claim in claims]

    def with_outcomes(change: Callable[[Tensor], Tensor]) -> Callable[[list[Tensor]], Tensor]:
        return lambda conditions: _verdict([change(each) for each in conditions])

    slips = [
        Slip(
            with_outcomes(lambda each: each.abs()),
            "−1 is against the claim: count the outcomes that are 1, not those that are not 0.",
        ),
        Slip(
            with_outcomes(lambda each: each.clamp_max(0) * 2 + 1),
            "a comparison without a difference, 0, is no support: only 1 counts as for.",
        ),
        Slip(
            with_outcomes(lambda each: 2 * each.clamp_min(0) - 1),
            "a comparison without a difference, 0, is not against: only −1 is.",
        ),
        Slip(
            lambda conditions: _verdict(conditions, half_wins=True),
            "half is not yet won: *more* than half of the comparisons must be for.",
        ),
        Slip(
            lambda conditions: _verdict(conditions, most_against=1.0),
            "all conditions won is not enough to hold: at most one comparison in ten may be "
            "against.",
        ),
        Slip(
            lambda conditions: _verdict(conditions, most_against=0.0),
            "one comparison in ten may be against a claim that holds.",
        ),
        Slip(
            lambda conditions: torch.tensor([0, 2, 2, 3])[_verdict(conditions).long()],
            "mixed is missing: some conditions are won, but more comparisons are against than for.",
        ),
        Slip(
            lambda conditions: _verdict([torch.cat(conditions)]),
            "judge each condition by itself first; thrown together, a claim cannot hold *when*.",
        ),
        Slip(
            lambda conditions: _verdict(conditions, by_condition=True),
            "mixed counts comparisons, not conditions: a condition of one comparison weighs less "
            "than one of four.",
        ),
        Slip(
            lambda conditions: _verdict(conditions, mixed_first=True),
            "ask first whether any condition is won: where none is, the claim does not hold.",
        ),
        Slip(
            lambda conditions: 3 - _verdict(conditions),
            "the numbers are turned round: HOLDS is 3, FAILS is 0.",
        ),
    ]
    praise = "right: four words, and the same numbers always give the same one."
    return check_function("verdict", answer, _verdict, slips, cases, praise)


def _nearest(latent: Tensor) -> Tensor:
    return torch.cdist(latent, latent).fill_diagonal_(torch.inf).argmin(1)


def _agreements(latent: Tensor, modes: Tensor) -> Tensor:
    return (modes[_nearest(latent)] == modes).double()


def _share(agree: Tensor) -> Tensor:
    return agree.double().mean()


def _mode_survival(latent: Tensor, modes: Tensor) -> Tensor:
    return _agreements(latent, modes).mean()


def _counts(modes: Tensor) -> Tensor:
    return modes.unique(return_counts=True)[1].double()


def _chance_level(modes: Tensor) -> Tensor:
    count, n = _counts(modes), len(modes)
    return (count * (count - 1)).sum() / (n * (n - 1))


def _r_max(budget: Tensor) -> Tensor:
    return budget.expm1().sqrt()


def _beyond(effect: Tensor, least: Tensor) -> Tensor:
    return (effect > least).double() - (effect < -least).double()


def _outcome(effect: Tensor, spread: Tensor, margin: Tensor) -> Tensor:
    return _beyond(effect, spread.clamp_min(margin))


def _verdict(
    conditions: list[Tensor],
    half_wins: bool = False,
    most_against: float = 0.1,
    by_condition: bool = False,
    mixed_first: bool = False,
) -> Tensor:
    """The rule; every option is a slip."""
    for_it = [int((each == 1).sum()) for each in conditions]
    against = [int((each == -1).sum()) for each in conditions]
    sizes = [len(each) for each in conditions]
    won = [2 * n > k or (half_wins and 2 * n == k) for n, k in zip(for_it, sizes, strict=True)]
    lost = [2 * n > k for n, k in zip(against, sizes, strict=True)]
    behind = sum(lost) > sum(won) if by_condition else sum(against) > sum(for_it)
    if mixed_first and behind:
        return torch.tensor(float(MIXED))
    if not any(won):
        return torch.tensor(float(FAILS))
    if all(won) and sum(against) <= most_against * sum(sizes):
        return torch.tensor(float(HOLDS))
    return torch.tensor(float(MIXED if behind else HOLDS_WHEN))
