"""The ledger: the paper's claims, each with its numbers and a verdict that follows from them.

    python -m benchmarks.ledger            # measure, judge, write results/ledger.json; 2 minutes
    python -m benchmarks.ledger --judge    # judge again with the measurements of that JSON
    python -m benchmarks.ledger --table    # print its table

What was measured stays in runs/ledger and is not measured again.

Where the numbers come from: the committed results of the other benchmarks (toy.json, adjoint.json,
grids.json), which are not repeated here, and for the rest the shipped weights, measured now with
several seeds of data and noise.

How a verdict is made, always by the same rule. A claim is a list of cases. Each case has an effect
that is positive where it speaks for the claim, a spread, and a margin below which a difference is
none:

    for      effect >  max(spread, margin)
    against  effect < −max(spread, margin)
    tie      otherwise

The cases of one condition ("N = 5") are taken together: the condition is won where more than half
of them are for. The claim *holds* where every condition is won and at most one case in ten is
against, *holds when* some conditions are won, and *does not hold here* where none is.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.toy import MACHINES, write_json
from benchmarks.train_zoo import current_commit, machine
from diffflow_edu import metrics, pretrained, toy
from diffflow_edu.processes.likelihood import theorem_one

FOLDER = Path(__file__).parent / "results"
RESULTS = FOLDER / "ledger.json"
RUNS = Path("runs") / "ledger"
SEEDS = (0, 1, 2)
SETS = ("olympic_rings", "rotated_gaussian", "checkerboard", "fractal_tree")

# Differences smaller than these are no differences, whatever the spread over seeds says.
MARGIN = {"nats": 0.05, "share": 0.005, "W2": 0.01, "survival": 0.05}

HOLDS, HOLDS_WHEN, FAILS = "holds", "holds when …", "does not hold here"


# The rule ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One comparison. effect: positive where it speaks for the claim, in `unit`.

    when: the condition it belongs to. where: the set or setting. spread: half the range over seeds,
    of the differences where both sides share their seeds, else of both sides, added. shown: what
    the table shows in place of the effect.
    """

    when: str
    where: str
    effect: float
    spread: float
    unit: str
    margin: float = 0.0
    shown: str = ""

    @property
    def outcome(self) -> int:
        """1 for, −1 against, 0 a tie; an effect that is not finite is against."""
        if not math.isfinite(self.effect):
            return -1
        least = max(self.spread, self.margin)
        return int(self.effect > least) - int(self.effect < -least)


@dataclass(frozen=True)
class Claim:
    """What the paper says, in what setting it is tested here, and the cases that decide."""

    name: str
    says: str
    setting: str
    source: str
    cases: tuple[Case, ...]
    seeds: int


def conditions(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """The cases by condition, in their order."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        found.setdefault(case.when, []).append(case)
    return found


def won(cases: Sequence[Case]) -> bool:
    """Whether more than half of the cases speak for the claim."""
    return 2 * sum(case.outcome == 1 for case in cases) > len(cases)


def verdict(cases: Sequence[Case]) -> str:
    """One of the three, by the rule at the top of this file. Raises ValueError without a case."""
    if not cases:
        raise ValueError("cases must hold at least one comparison, got none")
    groups = [won(group) for group in conditions(cases).values()]
    if not any(groups):
        return FAILS
    against = sum(case.outcome == -1 for case in cases)
    return HOLDS if all(groups) and 10 * against <= len(cases) else HOLDS_WHEN


def judged(claim: Claim) -> dict[str, Any]:
    """The claim with its verdict and, by condition, how many cases are for and the mean effect."""
    found = {
        when: {
            "won": won(group),
            "for": sum(case.outcome == 1 for case in group),
            "against": sum(case.outcome == -1 for case in group),
            "of": len(group),
            "effect": statistics.fmean(case.effect for case in group),
            "spread": max(case.spread for case in group),
            "unit": group[0].unit,
            "shown": ", ".join(case.shown for case in group if case.shown),
        }
        for when, group in conditions(claim.cases).items()
    }
    return {
        "name": claim.name,
        "says": claim.says,
        "setting": claim.setting,
        "source": claim.source,
        "seeds": claim.seeds,
        "verdict": verdict(claim.cases),
        "conditions": found,
        "cases": [asdict(case) | {"outcome": case.outcome} for case in claim.cases],
    }


# Numbers of the other benchmarks -----------------------------------------------------------------


def read(name: str) -> dict[str, Any] | None:
    """A committed result, or None where that benchmark has not left one."""
    path = FOLDER / name
    return json.loads(path.read_text()) if path.exists() else None


Cells = dict[str, dict[str, dict[str, Any]]]


def less_is_better(
    cells: Cells, ours: str, theirs: str, what: str, when: str, unit: str
) -> list[Case]:
    """Theirs minus ours on every set, of a measure that ought to be small. Each machine's cells."""
    return [
        Case(
            when,
            name,
            cells[theirs][name][what]["mean"] - cells[ours][name][what]["mean"],
            cells[theirs][name][what]["spread"] + cells[ours][name][what]["spread"],
            unit,
            MARGIN[unit],
        )
        for name in SETS
        if what in cells.get(ours, {}).get(name, {}) and what in cells.get(theirs, {}).get(name, {})
    ]


def seeds_of(cells: Cells) -> int:
    return min(cell["seeds"] for row in cells.values() for cell in row.values())


def fewer_steps(report: dict[str, Any]) -> Claim:
    cells = report["cells"]
    cases = []
    for n in (5, 10, 30):
        cases += less_is_better(
            cells, f"diffflow-{n}", f"ddpm-log_snr-{n}", "gap", f"N = {n}, log-SNR grid", "nats"
        )
    cases += less_is_better(
        cells, "diffflow-30", "ddpm-linear-30", "gap", "N = 30, linear β", "nats"
    )
    return Claim(
        "fewer steps",
        "At equal N DiffFlow is better than DDPM, so it needs fewer steps for equal quality.",
        "gap to the data entropy, nats; equal parameters, equal CPU time, four sets; DDPM with "
        "its best grid and with linear β",
        "toy.json",
        tuple(cases),
        seeds_of(cells),
    )


def sharper(report: dict[str, Any]) -> Claim:
    cells = report["cells"]
    cases = []
    for n in (5, 10, 30):
        cases += less_is_better(
            cells, f"diffflow-{n}", f"ddpm-log_snr-{n}", "leak", f"N = {n}, log-SNR grid", "share"
        )
    cases += less_is_better(
        cells, "diffflow-30", "ddpm-linear-30", "leak", "N = 30, linear β", "share"
    )
    return Claim(
        "sharper boundaries",
        "DiffFlow's samples have sharper boundaries than DDPM's.",
        "leak, the share of samples off the set; as above",
        "toy.json",
        tuple(cases),
        seeds_of(cells),
    )


def flows_leak(report: dict[str, Any]) -> Claim:
    """At equal cost, and with the longer training of the shipped weights."""
    cells = report["cells"]
    cases = []
    for n in (5, 10, 30):
        cases += less_is_better(
            cells, f"diffflow-{n}", "cnf", "leak", f"N = {n}, equal CPU time", "share"
        )
    for n in (5, 10, 30):
        for name in GAUSSIAN_SETS:
            flow, ours = chain("cnf", name, 30), chain("diffflow", name, n)
            effect = flow.card["metrics"]["leak"] - ours.card["metrics"]["leak"]
            when = f"N = {n}, FFJORD trained longer"
            cases.append(Case(when, name, effect, 0.0, "share", MARGIN["share"]))
    return Claim(
        "FFJORD leaks",
        "FFJORD leaks more between modes than DiffFlow.",
        "leak of FFJORD minus leak of DiffFlow; four sets at equal CPU time, three with the "
        "shipped weights",
        "toy.json, cards of the weights",
        tuple(cases),
        seeds_of(cells),
    )


def ode_beats_bound(report: dict[str, Any]) -> Claim:
    """−log p of the probability flow against the bound of the same model."""
    cells = report["cells"]
    cases = [
        Case(
            f"N = {n}",
            name,
            cell["bound"]["mean"] + cell["log_prob"]["mean"],
            cell["bound"]["spread"] + cell["log_prob"]["spread"],
            "nats",
            MARGIN["nats"],
        )
        for n in (5, 10, 30)
        for name, cell in cells.get(f"diffflow-{n}", {}).items()
        if "log_prob" in cell and "bound" in cell
    ]
    return Claim(
        "ODE likelihood",
        "DiffFlow's ODE gives a better likelihood than its bound.",
        "bound minus −log p of the probability flow (another density), nats; four sets",
        "toy.json",
        tuple(cases),
        seeds_of(cells),
    )


def six_times_the_cost(report: dict[str, Any]) -> Claim:
    """A training step, per particle, against that of a DDPM of as many parameters."""

    def per_particle(name: str) -> float:
        return report["costs"][name]["step"] / MACHINES[name].batch_size

    cases = []
    for n in (5, 10, 30):
        ratio = per_particle(f"diffflow-{n}") / per_particle(f"ddpm-log_snr-{n}")
        # Within a factor of two of six, on either side.
        effect = math.log(2) - abs(math.log(ratio / 6))
        cases.append(Case(f"N = {n}", "step", effect, 0.0, "log", shown=f"{ratio:.0f}×"))
    return Claim(
        "six times the cost",
        "In 2-D DiffFlow costs about six times what DDPM costs.",
        "CPU time of a training step for one particle; 'about' is within a factor of two",
        "costs in toy.json, medians",
        tuple(cases),
        1,
    )


def flexible_grid(report: dict[str, Any]) -> Claim:
    """L_β against L̂_β: the bound on fixed grids of several N, and how the loss jumps."""
    fixed, flexible = report["grids"]["fixed"], report["grids"]["flexible"]
    trained = str(report["setting"]["grids"]["steps"])
    cases = []
    for n, found in fixed["bound"].items():
        when = f"lower, N = {n} as trained" if n == trained else "lower, on grids of other N"
        cases.append(gap_between(when, f"N = {n}", found, flexible["bound"][n], "nats"))
    jumps = (fixed["loss_jump"], flexible["loss_jump"])
    # From batch to batch the loss jumps by hundredths of a nat: a tenth less is less.
    steadier = gap_between("more stable from batch to batch", "jump of the loss", *jumps, "nats")
    cases.append(replace(steadier, margin=0.1 * fixed["loss_jump"]["mean"]))
    return Claim(
        "flexible grid",
        "The flexible grid L̂_β gives a lower and more stable bound than L_β.",
        f"bound on fixed grids, L_β minus L̂_β, nats; {report['setting']['set']}, trained at "
        f"N = {trained} for equal steps",
        "grids.json",
        tuple(sorted(cases, key=lambda case: case.when)),
        len(report["setting"]["seeds"]["grids"]),
    )


def progressive(report: dict[str, Any]) -> Claim:
    """N = 5, 10, 20, 30 in turn against N = 30 from the start, at several budgets."""
    arms = report["progressive"]
    cases = [
        gap_between(
            f"{budget} CPU-s", report["setting"]["set"], arms["start"][budget], ours, "nats"
        )
        for budget, ours in arms["progressive"].items()
        if ours and arms["start"][budget]
    ]
    return Claim(
        "progressive training",
        "Training with few steps first and many later saves time.",
        "bound at N = 30 after equal CPU time, from the start minus progressive, nats",
        "grids.json",
        tuple(cases),
        len(report["setting"]["seeds"]["progressive"]),
    )


def gap_between(
    when: str, where: str, theirs: dict[str, float], ours: dict[str, float], unit: str
) -> Case:
    """Theirs minus ours, each a mean and a spread over seeds."""
    effect, spread = theirs["mean"] - ours["mean"], theirs["spread"] + ours["spread"]
    return Case(when, where, effect, spread, unit, MARGIN[unit])


def adjoint_memory(report: dict[str, Any]) -> Claim:
    """What the gradient of `loss` keeps, as a share of what autograd keeps, against N."""
    kept, everything = (report["against_n"]["results"][way] for way in ("loss", "autograd"))
    cases = []
    for n in kept:
        share = kept[n]["saved_mebibytes"] / everything[n]["saved_mebibytes"]
        shown = f"{100 * share:.1f} %"
        # At most 3 %: what rounds to two and a half or less is "about 2 %".
        cases.append(Case(f"N = {n}", "memory", 0.03 - share, 0.0, "share", shown=shown))
    return Claim(
        "adjoint memory",
        "The stochastic adjoint keeps about 2 % of what backpropagation keeps.",
        f"saved tensors of a gradient, {report['against_n']['setting']['particles']} particles; "
        "'about' is at most 3 %",
        "adjoint.json",
        tuple(cases),
        1,
    )


# Numbers measured here ---------------------------------------------------------------------------


def chain(kind: str, name: str, n: int) -> Any:  # noqa: ANN401
    return pretrained(kind, name, steps=n)


def over_seeds(measure: Callable[[int], float]) -> list[float]:
    return [measure(seed) for seed in SEEDS]


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the range."""
    return statistics.fmean(values), (max(values) - min(values)) / 2


def difference(
    when: str, where: str, more: Sequence[float], less: Sequence[float], unit: str
) -> Case:
    """The one minus the other, seed by seed: both sides share data and noise."""
    effect, spread = mean_and_spread([a - b for a, b in zip(more, less, strict=True)])
    return Case(when, where, effect, spread, unit, MARGIN[unit])


def measure_crossings() -> dict[str, list[float]]:
    """Leak near the crossings of the five rings, by "kind/N"."""
    density = toy.load("olympic_rings")
    return {
        f"{kind}/{n}": over_seeds(
            lambda seed, kind=kind, n=n: metrics.crossing_leak(
                chain(kind, "olympic_rings", n).sample(10_000, seed=seed).start, density
            )
        )
        for kind in ("ddpm", "diffflow")
        for n in (5, 10, 30)
    }


def crossings(found: dict[str, list[float]]) -> Claim:
    cases = [
        difference(f"N = {n}", "olympic_rings", found[f"ddpm/{n}"], found[f"diffflow/{n}"], "share")
        for n in (5, 10, 30)
    ]
    return Claim(
        "crossings",
        "DDPM blurs the crossings of rings, DiffFlow keeps them sharp.",
        "leak among samples within .15 of a crossing, DDPM minus DiffFlow; shipped weights, "
        "10 000 samples",
        "measured here",
        tuple(cases),
        len(SEEDS),
    )


LATENT_SETS = ("olympic_rings", "four_rings", "checkerboard")
GAUSSIAN_SETS = ("olympic_rings", "rotated_gaussian", "checkerboard")


def measure_latents() -> dict[str, dict[str, list[float]]]:
    """Mode survival and distance to N(0, I), by "kind/set/N"."""
    found: dict[str, dict[str, list[float]]] = {}
    wanted = {
        (kind, name, n)
        for kind in ("ddpm", "diffflow")
        for name in {*LATENT_SETS, *GAUSSIAN_SETS}
        for n in (5, 10, 30)
    } | {("cnf", name, 30) for name in GAUSSIAN_SETS}
    for kind, name, n in sorted(wanted):
        density, model = toy.load(name), chain(kind, name, n)
        runs = [metrics.evaluate_latent(model, density, n=3000, seed=seed) for seed in SEEDS]
        found[f"{kind}/{name}/{n}"] = {
            what: [run[what] for run in runs]
            for what in ("mode_survival", "w2_to_normal", "w2_to_normal_floor")
        }
    return found


def modes_apart(found: dict[str, dict[str, list[float]]]) -> Claim:
    cases = [
        difference(
            f"N = {n}",
            name,
            found[f"diffflow/{name}/{n}"]["mode_survival"],
            found[f"ddpm/{name}/{n}"]["mode_survival"],
            "survival",
        )
        for n in (5, 10, 30)
        for name in LATENT_SETS
    ]
    return Claim(
        "modes apart",
        "DiffFlow keeps modes in separate regions of the noise, DDPM mixes them.",
        "share of particles whose nearest neighbour in x_T has their mode, DiffFlow minus DDPM; "
        "shipped weights, 3000 particles; less than 5 % is no region",
        "measured here",
        tuple(cases),
        len(SEEDS),
    )


def fills_the_gaussian(found: dict[str, dict[str, list[float]]]) -> Claim:
    cases = [
        difference(
            f"N = {n}",
            name,
            found[f"cnf/{name}/30"]["w2_to_normal"],
            found[f"diffflow/{name}/{n}"]["w2_to_normal"],
            "W2",
        )
        for n in (5, 10, 30)
        for name in GAUSSIAN_SETS
    ]
    return Claim(
        "fills the Gaussian",
        "FFJORD keeps the data's shape in the noise, DiffFlow fills the Gaussian.",
        "sliced W2 from x_T to N(0, I), FFJORD minus DiffFlow; shipped weights, 3000 particles",
        "measured here",
        tuple(cases),
        len(SEEDS),
    )


LAMBDAS = (0.0, 0.5, 1.0, 1.5)


def measure_lambda() -> dict[str, dict[str, list[float]]]:
    """Leak and sliced W2 of the samples at every λ, by "set/N/λ"."""
    found = {}
    for name in ("olympic_rings", "checkerboard"):
        density = toy.load(name)
        for n in (5, 10, 30):
            model = chain("diffflow", name, n)
            for lam in LAMBDAS:
                samples = [model.sample(5000, seed=seed, lam=lam).start for seed in SEEDS]
                data = [density.sample(5000, seed=seed + metrics.DATA_SEED) for seed in SEEDS]
                found[f"{name}/{n}/{lam:g}"] = {
                    "leak": [metrics.leak(x, density) for x in samples],
                    "sliced_w2": [
                        metrics.sliced_w2(x[x.isfinite().all(1)], y)
                        for x, y in zip(samples, data, strict=True)
                    ],
                }
    return found


def lambda_one(found: dict[str, dict[str, list[float]]]) -> Claim:
    """λ = 1 against each of the others, by leak and by sliced W2."""
    cases = [
        difference(
            f"against λ = {lam:g}, by {title}",
            f"{name}, N = {n}",
            found[f"{name}/{n}/{lam:g}"][what],
            found[f"{name}/{n}/1"][what],
            unit,
        )
        for what, unit, title in (("leak", "share", "leak"), ("sliced_w2", "W2", "W2"))
        for lam in LAMBDAS
        if lam != 1
        for n in (5, 10, 30)
        for name in ("olympic_rings", "checkerboard")
    ]
    return Claim(
        "λ = 1 samples best",
        "Of the λ family, λ = 1 draws the best samples.",
        "another λ minus λ = 1, on the chain's own steps; five rings and checkerboard at N = 5, 10 "
        "and 30, shipped weights, 5000 samples",
        "measured here",
        tuple(cases),
        len(SEEDS),
    )


THEOREM_STEPS, THEOREM_G = (10, 100, 1000), (1.0, 0.1, 0.01, 0.001)


def measure_theorem_one() -> dict[str, Any]:
    """The path term and the flow's −Σ log det, on every grid; seeds of particles and noise."""

    def drift(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.tanh(2 * x.flip(-1) + t)

    runs = []
    for seed in SEEDS:
        draw = torch.Generator().manual_seed(seed)
        x = torch.randn(400, 2, generator=draw, dtype=torch.float64)
        runs.append(theorem_one(drift, x, THEOREM_STEPS, THEOREM_G, seed=seed))
    return {
        "steps": list(THEOREM_STEPS),
        "g": list(THEOREM_G),
        "off": [
            [[float(r.path[i, j] - r.flow[i]) for r in runs] for j in range(4)] for i in range(3)
        ],
    }


def becomes_a_flow(found: dict[str, Any]) -> Claim:
    """|path term − flow| at most .1 nats, at each Δt/g."""
    cases = []
    for n, row in zip(found["steps"], found["off"], strict=True):
        for g, off in zip(found["g"], row, strict=True):
            # Δt and g have the same unit here: T = 1, and the drift is of order one.
            ratio = 1 / n / g
            when = "Δt ≪ g ≪ 1" if ratio <= 0.2 and g <= 0.1 else "Δt ≥ g" if ratio >= 1 else None
            if when:
                mean, spread = mean_and_spread(off)
                effect, shown = 0.1 - abs(mean), short(abs(mean))
                cases.append(Case(when, f"N = {n}, g = {g:g}", effect, spread, "nats", shown=shown))
    return Claim(
        "a flow as g → 0",
        "As g → 0 DiffFlow's loss becomes a normalizing flow's (Theorem 1).",
        "distance of the path term from −Σ log det of the noiseless steps, nats; a tanh drift in "
        "float64; at most .1 is near",
        "measured here by `theorem_one`",
        tuple(cases),
        len(SEEDS),
    )


def short(number: float) -> str:
    """Two significant digits, never in powers of ten.

    >>> short(0.0059), short(6671.2)
    ('0.0059', '6671')
    """
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


MEASUREMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "crossings": measure_crossings,
    "latents": measure_latents,
    "lambda": measure_lambda,
    "theorem one": measure_theorem_one,
}


def measured_in(folder: Path) -> dict[str, Any]:
    """Every measurement, from the folder where it is there, and left there otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, measure in MEASUREMENTS.items():
        path = folder / f"{name}.json"
        if not path.exists():
            write_json(path, measure())
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in MEASUREMENTS}


# The whole ---------------------------------------------------------------------------------------


def claims(measured: dict[str, Any]) -> list[Claim]:
    """Every claim whose numbers are at hand, in the order of the paper's story."""
    found = []
    toy_report, adjoint_report, grids_report = map(read, ("toy.json", "adjoint.json", "grids.json"))
    if toy_report:
        found += [fewer_steps(toy_report), sharper(toy_report), flows_leak(toy_report)]
    found += [
        crossings(measured["crossings"]),
        modes_apart(measured["latents"]),
        fills_the_gaussian(measured["latents"]),
        becomes_a_flow(measured["theorem one"]),
    ]
    if adjoint_report and "against_n" in adjoint_report:
        found.append(adjoint_memory(adjoint_report))
    if grids_report:
        found += [
            claim
            for claim in (flexible_grid(grids_report), progressive(grids_report))
            if claim.seeds > 0
        ]
    found.append(lambda_one(measured["lambda"]))
    if toy_report:
        found += [ode_beats_bound(toy_report), six_times_the_cost(toy_report)]
    return found


def table(report: dict[str, Any]) -> str:
    """The ledger in Markdown: claim, verdict, numbers by condition, and what was compared."""
    lines = [
        "| the paper says | verdict | mean effect by condition, comparisons for it | compared |",
        "|---|---|---|---|",
    ]
    for claim in report["claims"]:
        numbers = "; ".join(in_words(w, found) for w, found in claim["conditions"].items())
        how = f"{claim['setting']} ({claim['source']}, {number_of_seeds(claim['seeds'])})"
        lines.append(f"| {claim['says']} | **{shown_verdict(claim)}** | {numbers} | {how} |")
    return "\n".join(lines)


def number_of_seeds(seeds: int) -> str:
    """Such as "3 seeds"."""
    return f"{seeds} seed{'s' if seeds > 1 else ''}"


def shown_verdict(claim: dict[str, Any]) -> str:
    """The verdict, with the conditions that are won where it depends on them."""
    if claim["verdict"] != HOLDS_WHEN:
        return claim["verdict"]
    return "holds when " + "; ".join(
        when + (" (mostly)" if found["for"] < found["of"] else "")
        for when, found in claim["conditions"].items()
        if found["won"]
    )


def in_words(when: str, found: dict[str, Any]) -> str:
    """Such as "N = 5: +0.31 nats, 4 of 4"."""
    unit, effect = found["unit"], found["effect"]
    percent = unit in ("share", "survival")
    number = f"{100 * effect:+.1f} %" if percent else f"{effect:+.2f} {unit}"
    return f"{when}: {found['shown'] or number}, {found['for']} of {found['of']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--judge", action="store_true", help="keep the measurements of the JSON")
    parser.add_argument("--table", action="store_true", help="print the table and do nothing else")
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(RESULTS.read_text())))
        return
    torch.set_num_threads(1)
    stored = json.loads(RESULTS.read_text()) if options.judge else {}
    measured = stored["measured"] if options.judge else measured_in(RUNS)
    report = {
        "rule": "How a verdict is made" + __doc__.split("How a verdict is made")[1].rstrip(),
        "margins": MARGIN,
        "machine": stored.get("machine", machine()),
        "commit": stored.get("commit", current_commit()),
        "claims": [judged(claim) for claim in claims(measured)],
        "measured": measured,
    }
    write_json(RESULTS, report | {"table": table(report)})
    print(table(report))


if __name__ == "__main__":
    main()
