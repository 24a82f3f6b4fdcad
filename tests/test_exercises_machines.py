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


def verdict(conditions):
    won = [2 * (each == 1).sum() > len(each) for each in conditions]
    every = torch.cat(conditions)
    against, for_it = (every == -1).sum(), (every == 1).sum()
    if not any(won):
        return torch.tensor(0)
    if all(won) and 10 * against <= len(every):
        return torch.tensor(3)
    return torch.tensor(1 if against > for_it else 2)


def changed(change):
    """The verdict of outcomes that were misread."""
    return lambda conditions: verdict([change(each) for each in conditions])


def without_mixed(conditions):
    return verdict(conditions).clamp(min=2) if verdict(conditions) == 1 else verdict(conditions)


def all_won_is_enough(conditions):
    won = [2 * (each == 1).sum() > len(each) for each in conditions]
    return torch.tensor(3) if all(won) else verdict(conditions)


def not_one_against(conditions):
    found = verdict(conditions)
    return found.clamp(max=2) if found == 3 and (torch.cat(conditions) == -1).any() else found


def half_is_won(conditions):
    tipped = [torch.cat([e, e, torch.tensor([1])]) if 2 * (e == 1).sum() == len(e) else e
              for e in conditions]  # fmt: skip
    return verdict(tipped)


def conditions_are_counted(conditions):
    won = sum(bool(2 * (each == 1).sum() > len(each)) for each in conditions)
    lost = sum(bool(2 * (each == -1).sum() > len(each)) for each in conditions)
    return (
        torch.tensor(1 if lost > won else 2) if 0 < won < len(conditions) else verdict(conditions)
    )


def mixed_comes_first(conditions):
    every = torch.cat(conditions)
    return torch.tensor(1) if (every == -1).sum() > (every == 1).sum() else verdict(conditions)


SOLUTIONS = {
    "check_mode_survival": mode_survival,
    "check_chance_level": chance_level,
    "check_r_max": r_max,
    "check_outcome": outcome,
    "check_verdict": verdict,
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
        lambda m: chance_level(m) + 1 / (len(m) - 1),
        "one of the n_m − 1 other particles",
    ),
    (
        "check_chance_level",
        lambda m: ((shares(m) * len(m) - 1) / (len(m) - 1)).mean(),
        "the modes differ in size",
    ),
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
    ("check_r_max", lambda b: ((2 * b).exp() - 1) ** 0.5, "no 2 comes out"),
    ("check_r_max", lambda b: (1 + b).log(), "solve B = log(1 + r_max²)"),
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
    ("check_outcome", lambda e, s, m: outcome(e, s + m, m), "not their sum"),
    ("check_outcome", lambda e, s, m: 2 * (outcome(e, s, m) == 1) - 1, "not yet against it"),
    ("check_verdict", changed(lambda each: each.abs()), "not those that are not 0"),
    ("check_verdict", changed(lambda e: torch.where(e == 0, 1, e)), "is no support"),
    ("check_verdict", changed(lambda e: torch.where(e == 0, -1, e)), "is not against"),
    ("check_verdict", half_is_won, "half is not yet won"),
    ("check_verdict", all_won_is_enough, "is not enough to hold"),
    ("check_verdict", not_one_against, "one comparison in ten may be against a claim"),
    ("check_verdict", without_mixed, "mixed is missing"),
    ("check_verdict", lambda c: verdict([torch.cat(c)]), "judge each condition by itself"),
    ("check_verdict", conditions_are_counted, "mixed counts comparisons"),
    ("check_verdict", mixed_comes_first, "ask first whether any condition is won"),
    ("check_verdict", lambda c: 3 - verdict(c), "turned round"),
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


def test_the_ledger_passes_the_fifth():
    from benchmarks.ledger import FAILS, HOLDS, HOLDS_WHEN, MIXED, Case
    from benchmarks.ledger import verdict as word

    numbers = {HOLDS: 3, HOLDS_WHEN: 2, MIXED: 1, FAILS: 0}

    def from_the_ledger(conditions):
        cases = [
            Case(str(when), "", float(outcome), 0.0, "nats")
            for when, outcomes in enumerate(conditions)
            for outcome in outcomes
        ]
        return torch.tensor(numbers[word(cases)])

    assert exercises.check_verdict(from_the_ledger) is True


def test_the_ledger_passes_the_fourth():
    from benchmarks.ledger import Case

    def from_the_ledger(effect, spread, margin):
        cases = [
            Case("", "", float(e), float(s), "nats", float(margin))
            for e, s in zip(effect, spread, strict=True)
        ]
        return torch.tensor([float(case.outcome) for case in cases])

    assert exercises.check_outcome(from_the_ledger) is True
