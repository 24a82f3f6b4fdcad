"""Solutions of notebook 06's exercises, and wrong answers with the words that they meet."""

from __future__ import annotations

import torch

from diffflow_edu import exercises, metrics


def mode_survival(latent, modes):
    distance = torch.cdist(latent, latent).fill_diagonal_(torch.inf)
    return (modes[distance.argmin(1)] == modes).double().mean()


def chance_level(modes):
    n, count = len(modes), modes.unique(return_counts=True)[1]
    return (count * (count - 1)).sum() / (n * (n - 1))


def r_max(budget):
    return (budget.exp() - 1) ** 0.5


def outcome(effect, spread, margin):
    least = torch.maximum(spread, margin)
    return 1.0 * (effect > least) - 1.0 * (effect < -least)


SOLUTIONS = {
    "check_mode_survival": mode_survival,
    "check_chance_level": chance_level,
    "check_r_max": r_max,
    "check_outcome": outcome,
}


def nearest(x):
    return torch.cdist(x, x).fill_diagonal_(torch.inf).argmin(1)


def shares(m):
    return m.unique(return_counts=True)[1] / len(m)


# (check, wrong answer, words of the message that it must get)
PLANTED = [
    (
        "check_mode_survival",
        lambda x, m: (m[torch.cdist(x, x).argmin(1)] == m).double().mean(),
        "every particle found itself",
    ),
    ("check_mode_survival", lambda x, m: 1 - mode_survival(x, m), "has another mode"),
    ("check_mode_survival", lambda x, m: len(m) * mode_survival(x, m), "this is how many"),
    ("check_mode_survival", lambda x, m: m[nearest(x)] == m, "one answer a particle"),
    ("check_mode_survival", lambda x, m: m[nearest(x)], "these are the neighbours' modes"),
    ("check_mode_survival", lambda x, m: nearest(x), "these are the neighbours' indices"),
    (
        "check_mode_survival",
        lambda x, m: (m[torch.cdist(x, x).argmax(1)] == m).double().mean(),
        "this asks the farthest",
    ),
    (
        "check_mode_survival",
        lambda x, m: (nearest(x) == m).double().mean(),
        "an index is not a mode",
    ),
    ("check_chance_level", lambda m: torch.tensor(1 / len(m.unique())), "one over the number"),
    ("check_chance_level", lambda m: shares(m).square().sum(), "a particle is not its own"),
    ("check_chance_level", lambda m: shares(m).max(), "the commonest mode"),
    ("check_chance_level", lambda m: 1 - chance_level(m), "that the two modes differ"),
    (
        "check_chance_level",
        lambda m: chance_level(m) * (len(m) - 1) / len(m),
        "drawn from the n − 1 others",
    ),
    (
        "check_chance_level",
        lambda m: shares(m) * (shares(m) * len(m) - 1) / (len(m) - 1),
        "one term a mode",
    ),
    ("check_r_max", lambda b: b.exp() - 1, "the root is missing"),
    ("check_r_max", lambda b: (b / 2).exp(), "so subtract the 1"),
    ("check_r_max", lambda b: b**0.5, "right where B is small"),
    ("check_r_max", lambda b: (1 + b**2).log(), "from B to r_max"),
    ("check_r_max", lambda b: (1 + b).log() ** 0.5, "the inverse of log is exp"),
    ("check_r_max", lambda b: (1 - (-b).exp()) ** 0.5, "that is σ(T)"),
    ("check_outcome", lambda e, s, m: e.sign(), "may turn with the next seed"),
    (
        "check_outcome",
        lambda e, s, m: 1.0 * (e > s) - 1.0 * (e < -s),
        "the margin is missing",
    ),
    (
        "check_outcome",
        lambda e, s, m: 1.0 * (e > m) - 1.0 * (e < -m),
        "the spread is missing",
    ),
    (
        "check_outcome",
        lambda e, s, m: e.abs() > torch.maximum(s, m),
        "keep its sign",
    ),
    (
        "check_outcome",
        lambda e, s, m: e > torch.maximum(s, m),
        "cases against the claim are missing",
    ),
    (
        "check_outcome",
        lambda e, s, m: outcome(e, torch.minimum(s, m), torch.zeros(())),
        "an effect must pass both",
    ),
]


# The truths of the checks are those of the library and of the ledger -----------------------------


def test_the_library_passes_the_first_two():
    def survival(latent, modes):
        return torch.tensor(metrics.mode_survival(latent, modes))

    def chance(modes):
        return torch.tensor(metrics.mode_survival_chance(modes))

    assert exercises.check_mode_survival(survival) is True
    assert exercises.check_chance_level(chance) is True


def test_the_dial_passes_the_third():
    from benchmarks import dial

    def from_the_benchmark(budget):
        return torch.tensor([dial.r_max(float(b)) for b in budget], dtype=torch.float64)

    assert exercises.check_r_max(from_the_benchmark) is True


def test_the_ledger_passes_the_fourth():
    from benchmarks.ledger import Case

    def from_the_ledger(effect, spread, margin):
        cases = [
            Case("", "", float(e), float(s), "nats", float(margin))
            for e, s in zip(effect, spread, strict=True)
        ]
        return torch.tensor([float(case.outcome) for case in cases])

    assert exercises.check_outcome(from_the_ledger) is True
