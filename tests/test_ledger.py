"""The ledger: verdicts follow from numbers by one rule, and planted numbers turn them."""

from __future__ import annotations

import copy
import json
import math
import sys

import pytest
import torch

from benchmarks import ledger
from benchmarks import toy as benchmark
from benchmarks.children import run_all
from benchmarks.ledger import FAILS, HOLDS, HOLDS_WHEN, MIXED, Case, verdict
from benchmarks.toy import MACHINES
from diffflow_edu import zoo

REPORT = json.loads(ledger.RESULTS.read_text())


def case(effect, when="a", spread=0.0, margin=0.0):
    return Case(when, "somewhere", effect, spread, "nats", margin)


# The rule ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("effect", "spread", "margin", "outcome"),
    [
        (0.3, 0.1, 0.05, 1),
        (-0.3, 0.1, 0.05, -1),
        (0.3, 0.4, 0.05, 0),  # seeds differ more than the two sides
        (0.03, 0.0, 0.05, 0),  # too small to matter, one seed
        (-0.03, 0.0, 0.05, 0),
        (0.05, 0.0, 0.05, 0),  # more than the margin is asked for
        (math.nan, 0.0, 0.0, -1),
        (math.inf, 0.0, 0.0, -1),
        (None, 0.0, 0.0, -1),  # a number is missing
    ],
)
def test_an_effect_counts_only_beyond_its_spread_and_its_margin(effect, spread, margin, outcome):
    assert case(effect, spread=spread, margin=margin).outcome == outcome


def test_the_verdict_turns_with_the_numbers():
    assert verdict([case(1.0), case(1.0, "b")]) == HOLDS
    assert verdict([case(1.0), case(-1.0, "b")]) == HOLDS_WHEN
    assert verdict([case(-1.0), case(-1.0, "b")]) == FAILS
    assert verdict([case(0.0), case(0.0, "b")]) == FAILS  # no difference is no support


def test_a_claim_that_loses_more_than_it_wins_is_mixed():
    assert verdict([case(1.0), case(-1.0, "b"), case(0.0, "b")]) == HOLDS_WHEN  # as many
    assert verdict([case(1.0), case(-1.0, "b"), case(-1.0, "b")]) == MIXED
    assert verdict([case(1.0), case(1.0), case(-1.0, "b"), case(-1.0, "b")]) == HOLDS_WHEN
    assert verdict([case(0.0), case(-1.0, "b")]) == FAILS  # nothing is won


def test_a_condition_needs_more_than_half_of_its_cases():
    two_of_four = [case(1.0), case(1.0), case(0.0), case(0.0)]
    three_of_four = [case(1.0), case(1.0), case(1.0), case(0.0)]
    assert not ledger.won(two_of_four) and ledger.won(three_of_four)
    assert verdict(two_of_four) == FAILS
    assert verdict(three_of_four) == HOLDS


def test_more_than_one_case_in_ten_against_keeps_a_claim_from_holding_outright():
    assert verdict([case(1.0), case(1.0), case(-1.0)]) == HOLDS_WHEN
    assert verdict([case(1.0)] * 9 + [case(-1.0)]) == HOLDS
    assert verdict([case(1.0)] * 8 + [case(-1.0)]) == HOLDS_WHEN


def test_the_conditions_that_are_won_are_named():
    claim = ledger.Claim("n", "s", "set", "> 0", "src", (case(1.0, "N = 5"), case(-1.0, "N = 30")))
    found = ledger.judged(claim)
    assert found["verdict"] == HOLDS_WHEN
    assert ledger.shown_verdict(found) == "holds when N = 5"
    assert [c["outcome"] for c in found["cases"]] == [1, -1]


def test_a_condition_that_is_won_by_most_says_so():
    cases = (case(1.0, "N = 5"), case(1.0, "N = 5"), case(-1.0, "N = 5"), case(-1.0, "N = 30"))
    found = ledger.judged(ledger.Claim("n", "s", "set", "> 0", "src", cases))
    assert ledger.shown_verdict(found) == "holds when N = 5 (mostly)"


def test_a_mixed_claim_says_where_it_wins_and_where_it_loses():
    cases = (case(1.0, "N = 5"), case(0.0, "N = 10"), *[case(-1.0, "N = 30")] * 2)
    found = ledger.judged(ledger.Claim("n", "s", "set", "> 0", "src", cases))
    assert ledger.shown_verdict(found) == "mixed: for it N = 5; against it N = 30"
    assert [c["lost"] for c in found["conditions"].values()] == [False, False, True]


def test_a_claim_without_a_case_has_no_verdict():
    with pytest.raises(ValueError, match="cases must hold at least one comparison"):
        verdict([])


def test_what_diverged_or_is_missing_counts_against_whoever_it_is():
    numbers = [1.0, 1.1, 1.2]
    for bad in (None, math.nan, math.inf):
        for more, less in (([bad, 1.0, 1.0], numbers), (numbers, [1.0, bad, 1.0])):
            for way in (ledger.compare, ledger.difference):
                found = way("a", "somewhere", more, less, "nats")
                assert found.effect is None and found.outcome == -1
    assert ledger.compare("a", "somewhere", [], numbers, "nats").outcome == -1


def test_one_value_that_is_missing_turns_a_claim_and_is_shown():
    held = tuple(ledger.compare("N = 5", str(i), [2.0] * 3, [1.0] * 3, "nats") for i in range(4))
    failed = ledger.compare("N = 5", "4", [2.0] * 3, [1.0, None, 1.0], "nats")
    claim = ledger.Claim("n", "s", "set", "> 0", "src", (*held, failed))
    found = ledger.judged(claim)
    assert (verdict(held), found["verdict"]) == (HOLDS, HOLDS_WHEN)  # one in five is against
    condition = found["conditions"]["N = 5"]
    assert condition["without_a_number"] == condition["against"] == 1
    assert ledger.in_words("N = 5", condition) == ("N = 5: +1.00 nats, 4 of 5, 1 without a number")
    json.dumps(found, allow_nan=False)  # a ledger with a gap can still be written
    alone = ledger.judged(ledger.Claim("n", "s", "set", "> 0", "src", (failed,)))
    assert alone["verdict"] == FAILS
    assert ledger.in_words("N = 5", alone["conditions"]["N = 5"]) == "N = 5: no number, 0 of 1"


@pytest.mark.parametrize(
    ("trainings", "draws", "words"),
    [
        (3, 1, "3 trainings"),
        (1, 1, "1 training, 1 draw"),
        (1, 3, "1 training, 3 draws"),
        (0, 3, "3 draws, nothing trained"),
        (0, 1, "1 measurement"),
    ],
)
def test_trainings_and_draws_are_told_apart(trainings, draws, words):
    planted = Case("a", "somewhere", 1.0, 0.0, "nats", trainings=trainings, draws=draws)
    assert planted.rests_on == words
    claim = ledger.Claim("n", "s", "set", "> 0", "src", (planted,))
    found = ledger.judged(claim)
    assert found["rests_on"] == words and found["cases"][0]["trainings"] == trainings
    row = ledger.table({"claims": [found]}).splitlines()[-1]
    assert row.split(" | ")[4] == words


def test_the_comparisons_that_rest_on_less_are_named():
    three = ledger.compare("N = 5", "a", [2.0] * 3, [1.0] * 3, "nats")
    one = ledger.difference("N = 30", "a", [2.0] * 3, [1.0] * 3, "nats")
    found = ledger.judged(ledger.Claim("n", "s", "set", "> 0", "src", (three, one)))
    assert found["rests_on"] == "3 trainings; 1 training, 3 draws (N = 30)"


# Claims from planted numbers ---------------------------------------------------------------------


def planted_toy(gap, leak, log_prob=0.5):
    """Numbers in which machine m reads gap[m] and leak[m] on every set, of three trainings."""
    found = {}
    for machine in (*MACHINES, *ledger.TWENTY):
        values = {
            "gap": gap.get(machine, 1.0),
            "leak": leak.get(machine, 0.05),
            "bound": 1.0,
            "log_prob": log_prob,
        }
        for name in ledger.SETS:
            found |= {(machine, name, what): [value] * 3 for what, value in values.items()}
    return found


OURS = [f"diffflow-{n}" for n in (5, 10, 20, 30)]


def test_fewer_steps_holds_where_diffflow_is_ahead_at_every_n_and_not_where_it_is_behind():
    ours = dict.fromkeys(OURS, 0.5)
    assert verdict(ledger.fewer_steps(planted_toy(ours, {})).cases) == HOLDS
    assert verdict(ledger.sharper(planted_toy({}, dict.fromkeys(ours, 0.01))).cases) == HOLDS
    few = ledger.judged(ledger.fewer_steps(planted_toy({"diffflow-20": 0.5}, {})))
    assert ledger.shown_verdict(few) == "holds when N = 20, log-SNR grid"
    assert few["source"] == "toy.json, N = 20 trained here"
    behind = dict.fromkeys(ours, 2.0)
    assert verdict(ledger.fewer_steps(planted_toy(behind, {})).cases) == FAILS


def test_flows_leak_turns_with_their_leak_and_says_that_one_of_them_was_trained_longer():
    def cards(flow, ours):
        return {
            ledger.title(w): [flow if w[0] == "cnf" else ours]
            for w in ledger.MEASUREMENTS["cards"][1]
        }

    leaky, tight = planted_toy({}, {"cnf": 0.3}), planted_toy({}, {})
    longer, level = cards(flow=0.2, ours=0.1), cards(flow=0.1, ours=0.1)
    assert verdict(ledger.flows_leak(leaky, longer).cases) == HOLDS
    assert verdict(ledger.flows_leak(tight, longer).cases) == HOLDS_WHEN
    assert verdict(ledger.flows_leak(tight, level).cases) == FAILS
    found = ledger.judged(ledger.flows_leak(leaky, longer))
    for when, condition in found["conditions"].items():
        longer_trained = "trained longer" in when
        assert condition["rests_on"] == ("1 training, 1 draw" if longer_trained else "3 trainings")
    missing = cards(flow=0.2, ours=0.1) | {"cnf/checkerboard/30": [None]}
    assert verdict(ledger.flows_leak(leaky, missing).cases) == HOLDS_WHEN


def test_the_ode_is_better_where_its_nll_lies_below_the_bound():
    assert verdict(ledger.ode_beats_bound(planted_toy({}, {}, log_prob=-0.5)).cases) == HOLDS
    assert verdict(ledger.ode_beats_bound(planted_toy({}, {}, log_prob=-1.5)).cases) == FAILS


@pytest.mark.parametrize(("ratio", "found"), [(6, HOLDS), (4, HOLDS), (1, FAILS), (40, FAILS)])
def test_six_times_the_cost_is_within_a_factor_of_two_of_six(ratio, found):
    costs = {m: {"step": 1e-3 * MACHINES[m].batch_size} for m in MACHINES}
    for n in (5, 10, 30):
        costs[f"diffflow-{n}"]["step"] *= ratio
    assert verdict(ledger.six_times_the_cost(costs, []).cases) == found


@pytest.mark.parametrize(
    ("ratios", "reached", "outcome", "shown"),
    [
        ([5.0, 6.0, 7.0], [True] * 3, 1, "5.9×"),
        ([3.0, 6.0, 12.0], [True] * 3, 0, "6×"),  # the spread is as large as the window
        ([0.4, 0.5, 0.6], [True] * 3, -1, "0.49×"),
        ([16.0, 16.0, 16.0], [True, True, False], -1, "over 16×"),
        ([8.0, 8.0, 8.0], [False] * 3, -1, "over 8×"),  # a lower limit tells nothing here
    ],
)
def test_the_cost_of_equal_quality_is_about_six_or_not(ratios, reached, outcome, shown):
    row = {"N": 5, "equal": "gap", "ddpm_seconds": 4, "ratios": ratios, "reached": reached}
    case = ledger.cost_of_equal_quality(row)
    assert (case.outcome, case.shown, case.when) == (outcome, shown, "to equal bound, N = 5")
    assert case.trainings == 3


def test_a_number_that_a_machine_lacks_counts_against():
    numbers = planted_toy(dict.fromkeys(OURS, 0.5), {})
    numbers["diffflow-5", "checkerboard", "gap"][1] = None  # a training diverged
    for name in ledger.SETS:
        del numbers["ddpm-log_snr-10", name, "gap"]
    found = {
        when: (len(cases), sum(case.outcome == 1 for case in cases))
        for when, cases in ledger.conditions(ledger.fewer_steps(numbers).cases).items()
    }
    assert found["N = 5, log-SNR grid"] == (4, 3)
    assert found["N = 10, log-SNR grid"] == (4, 0)
    assert found["N = 20, log-SNR grid"] == found["N = 30, linear β"] == (4, 4)


def test_twenty_steps_that_were_left_out_are_said_to_be():
    numbers = {key: value for key, value in planted_toy({}, {}).items() if "20" not in key[0]}
    for claim in (ledger.fewer_steps(numbers), ledger.sharper(numbers)):
        assert not any("20" in case.when for case in claim.cases)
        assert claim.source == "toy.json, N = 20 left out, not trained"


def test_records_become_numbers_a_training_in_the_order_of_their_seeds():
    def record(seed, gap, stopped=None):
        same = dict.fromkeys(("bound", "log_prob", "leak"), 0.0)
        return {"machine": "m", "set": "s", "seed": seed, "gap": gap, "stopped": stopped} | same

    numbers = ledger.numbers_of([record(2, 0.3), record(0, None), record(1, 0.2)])
    assert numbers["m", "s", "gap"] == [None, 0.2, 0.3]
    diverged = ledger.numbers_of([record(0, 0.3), record(1, 9.0, "the loss is NaN")])
    assert diverged["m", "s", "gap"] == [0.3, None] and diverged["m", "s", "leak"] == [0.0, None]


def test_adjoint_memory_turns_at_three_percent():
    def report(*shares):
        found = {
            "autograd": {str(n): {"saved_mebibytes": 100.0} for n, _ in enumerate(shares)},
            "loss": {str(n): {"saved_mebibytes": 100.0 * s} for n, s in enumerate(shares)},
        }
        return {"against_n": {"results": found, "setting": {"particles": 5}}}

    assert verdict(ledger.adjoint_memory(report(0.022)).cases) == HOLDS
    assert verdict(ledger.adjoint_memory(report(0.08, 0.022)).cases) == HOLDS_WHEN
    assert verdict(ledger.adjoint_memory(report(0.08)).cases) == FAILS


def planted_grids(flexible, progressive):
    def number(value):
        return {"mean": value, "spread": 0.0, "values": [value]}

    side = {n: number(2.0) for n in ("5", "10", "30")}
    ours = {n: number(flexible) for n in side}
    return {
        "setting": {
            "set": "board",
            "grids": {"steps": 10},
            "seeds": {"grids": [0], "progressive": [0]},
        },
        "grids": {
            "fixed": {"bound": side, "loss_jump": number(1.0)},
            "flexible": {"bound": ours, "loss_jump": number(flexible - 1)},
        },
        "progressive": {"start": {"5": number(2.0)}, "progressive": {"5": number(progressive)}},
    }


def test_grids_and_progressive_training_turn_with_their_bounds():
    better, worse = planted_grids(1.5, 1.5), planted_grids(2.5, 2.5)
    assert verdict(ledger.flexible_grid(better).cases) == HOLDS
    assert verdict(ledger.flexible_grid(worse).cases) == FAILS
    assert verdict(ledger.progressive(better).cases) == HOLDS
    assert verdict(ledger.progressive(worse).cases) == FAILS
    failed = planted_grids(1.5, None)
    assert verdict(ledger.progressive(failed).cases) == FAILS
    failed["progressive"]["progressive"]["5"] = {}  # no seed is complete
    assert verdict(ledger.progressive(failed).cases) == FAILS


FOUND = {
    part: {key: entry["found"] for key, entry in REPORT["measured"][part].items()}
    for part in ledger.MEASUREMENTS
}


def planted(part, kind, value, what=None):
    """The committed measurements of a part, with three times this value for one kind."""
    found = copy.deepcopy(FOUND[part])
    for key in found:
        if key.startswith(f"{kind}/"):
            if what:
                found[key][what] = [value] * 3
            else:
                found[key] = [value] * 3
    return found


def test_what_is_measured_here_turns_with_the_measurements():
    def modes(value):
        return verdict(
            ledger.modes_apart(planted("latents", "diffflow", value, "mode_survival")).cases
        )

    assert (modes(0.99), modes(0.01), modes(None)) == (HOLDS, FAILS, FAILS)

    def gaussian(value):
        return verdict(
            ledger.fills_the_gaussian(planted("latents", "cnf", value, "w2_to_normal")).cases
        )

    assert (gaussian(0.9), gaussian(0.0), gaussian(None)) == (HOLDS, FAILS, FAILS)

    def crossing(kind, value):
        return verdict(ledger.crossings(planted("crossings", kind, value)).cases)

    assert crossing("ddpm", 0.5) == HOLDS
    assert crossing("diffflow", 0.5) == crossing("ddpm", None) == FAILS


def test_lambda_one_is_judged_against_each_of_the_others():
    def found(ours, others):
        return {
            ledger.title(weights): {
                f"{lam:g}": {
                    what: [ours if lam == 1 else others] * 3 for what in ("leak", "sliced_w2")
                }
                for lam in ledger.LAMBDAS
            }
            for weights in ledger.MEASUREMENTS["lambda"][1]
        }

    planted = found(0.1, 0.5)
    assert verdict(ledger.lambda_one(planted).cases) == HOLDS
    for by_lambda in planted.values():
        by_lambda["1.5"] = {"leak": [0.01] * 3, "sliced_w2": [0.01] * 3}
    beaten = ledger.shown_verdict(ledger.judged(ledger.lambda_one(planted)))
    assert beaten.startswith("holds when") and "λ = 0.5" in beaten and "λ = 1.5" not in beaten
    assert verdict(ledger.lambda_one(found(0.5, 0.1)).cases) == FAILS
    assert verdict(ledger.lambda_one(found(None, 0.1)).cases) == FAILS


def test_samples_that_fly_off_are_not_left_out_of_their_distance():
    data = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    away = data.clone()
    away[7, 1] = math.nan
    assert ledger.w2(data, data) == 0
    assert ledger.over_seeds(lambda seed: ledger.w2(away, data)) == [None] * 3


def test_theorem_one_is_judged_where_the_steps_are_short_and_where_they_are_not():
    def found(short, long):
        def off(n, g):
            return [long if 1 / n / g >= 1 else short] * 3

        return {
            "steps": list(ledger.THEOREM_STEPS),
            "g": list(ledger.THEOREM_G),
            "off": [[off(n, g) for g in ledger.THEOREM_G] for n in ledger.THEOREM_STEPS],
        }

    held = ledger.judged(ledger.becomes_a_flow(found(0.01, 5.0)))
    assert ledger.shown_verdict(held) == "mixed: for it Δt ≪ g ≪ 1; against it Δt ≥ g"
    assert verdict(ledger.becomes_a_flow(found(0.01, 0.01)).cases) == HOLDS
    assert verdict(ledger.becomes_a_flow(found(1.0, 5.0)).cases) == FAILS


# Twenty steps, trained here ----------------------------------------------------------------------


def test_the_machines_of_twenty_steps_are_those_between_ten_and_thirty():
    for name, plan in ledger.TWENTY.items():
        ten, thirty = (MACHINES[name.replace("20", n)] for n in ("10", "30"))
        assert plan.batch_size == ten.batch_size == thirty.batch_size and plan.lr == thirty.lr
        recipe, shorter, longer = (p.recipe(0.01) for p in (plan, ten, thirty))
        assert recipe["hidden"] == shorter["hidden"] == longer["hidden"]
        grids = [r["schedule"][1]["steps"] for r in (shorter, recipe, longer)]
        assert grids == [10, 20, 30]
        model = zoo.build(recipe)
        assert 90_000 <= sum(p.numel() for p in model.parameters() if p.requires_grad) <= 99_000


def test_a_step_of_twenty_costs_what_lies_between():
    chain = {"10": {"step": 1.0, "calibration": 4.0}, "30": {"step": 3.0, "calibration": 8.0}}
    chain["30"]["warm_step"] = 0.1
    costs = {f"diffflow-{n}": cost for n, cost in chain.items()}
    costs |= {f"ddpm-log_snr-{n}": {"step": 1.0, "calibration": 2.0} for n in chain}
    found = ledger.cost_of_twenty(costs)
    assert found["diffflow-20"] == {"step": 2.0, "calibration": 6.0, "warm_step": 0.1}
    assert found["ddpm-log_snr-20"] == {"step": 1.0, "calibration": 2.0}


def test_a_run_of_twenty_steps_leaves_a_record_that_counts_with_those_of_toy(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")
    monkeypatch.setattr(benchmark, "PARTICLES", 200)
    monkeypatch.setattr(benchmark, "CALIBRATION_PARTICLES", 200)
    costs = {"step": 1.0, "warm_step": 0.5, "calibration": 0.0}
    benchmark.write_json(tmp_path / "costs.json", dict.fromkeys(ledger.TWENTY, costs))
    for name in ledger.runs_of_twenty(1):
        if "checkerboard" in name:
            benchmark.train(name, tmp_path, 2.0, "abc", ledger.TWENTY)
    assert ledger.twenty_in(tmp_path, 1) == []  # the other sets are missing
    monkeypatch.setattr(ledger, "SETS", ("checkerboard",))
    records = ledger.twenty_in(tmp_path, 1)
    numbers = ledger.numbers_of(records)
    for name in ledger.TWENTY:
        assert len(numbers[name, "checkerboard", "gap"]) == 1
        assert math.isfinite(numbers[name, "checkerboard", "gap"][0])


def test_a_training_that_fails_is_named_and_fails_the_ledger(tmp_path, monkeypatch):
    def failing(commands, jobs):
        for command in commands.values():
            assert command[1:4] == ["-m", "benchmarks.ledger", "--commit"]
        planted = {
            name: [sys.executable, "-S", "-c", "raise SystemExit(2)"] for name in list(commands)[:1]
        }
        run_all(planted, jobs, pause=0.01)

    monkeypatch.setattr(ledger, "RUNS", tmp_path)
    monkeypatch.setattr(ledger, "run_all", failing)
    monkeypatch.setattr(sys, "argv", ["ledger"])
    with pytest.raises(SystemExit, match=r"diffflow-20/olympic_rings/0 \(exit status 2\)"):
        ledger.main()


# What is there, what is stale --------------------------------------------------------------------


def test_a_measurement_is_repeated_when_its_weights_change_and_no_other(tmp_path, monkeypatch):
    calls, shas = [], {"ddpm/ring/5": "old", "cnf/ring/30": "same"}

    def measure(kind, name, n):
        calls.append(f"{kind}/{name}/{n}")
        return [1.0]

    wanted = [("ddpm", "ring", 5), ("cnf", "ring", 30)]
    monkeypatch.setattr(ledger, "MEASUREMENTS", {"part": (measure, wanted)})
    monkeypatch.setattr(ledger, "measure_theorem_one", lambda: calls.append("theorem") or {"x": 2})
    monkeypatch.setattr(ledger, "sha256", lambda *weights: shas[ledger.title(weights)])
    first = ledger.measured_in(tmp_path)
    assert sorted(calls) == ["cnf/ring/30", "ddpm/ring/5", "theorem"]
    assert ledger.measured_in(tmp_path) == first and len(calls) == 3
    shas["ddpm/ring/5"] = "new"
    again = ledger.measured_in(tmp_path)
    assert calls[3:] == ["ddpm/ring/5"]
    assert again["part"]["ddpm/ring/5"] == {"weights": "new", "found": [1.0]}
    assert again["part"]["cnf/ring/30"] == first["part"]["cnf/ring/30"]


def test_the_sha256_is_that_of_the_file_in_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    (tmp_path / "ddpm-ring-5.safetensors").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert ledger.sha256("ddpm", "ring", 5) == known


@pytest.fixture
def judging(tmp_path, monkeypatch):
    """`--judge` of a planted report; what comes of it is written beside it."""

    def judge(report):
        path = tmp_path / "ledger.json"
        path.write_text(json.dumps(report))
        monkeypatch.setattr(ledger, "RESULTS", path)
        monkeypatch.setattr(sys, "argv", ["ledger", "--judge"])
        ledger.main()
        return json.loads(path.read_text())

    return judge


def test_judging_refuses_what_is_stale_or_missing_and_says_what_to_do(judging, capsys):
    planted = copy.deepcopy(REPORT)
    planted["measured"]["crossings"]["ddpm/olympic_rings/5"]["weights"] = "of another file"
    del planted["measured"]["latents"]["cnf/checkerboard/30"]
    del planted["measured"]["theorem one"]
    planted |= {"trainings_at_20": 2}
    planted["measured"]["twenty steps"] = []
    with pytest.raises(SystemExit) as refused:
        judging(planted)
    message = str(refused.value)
    assert "crossings of ddpm/olympic_rings/5: stale, of weights that were replaced" in message
    assert "latents of cnf/checkerboard/30: not measured" in message
    assert "theorem one: not measured" in message and "N = 20: trained from 0 seeds of 2" in message
    assert "`python -m benchmarks.ledger` measures what is missing" in message
    assert message.count("\n- ") == 4 and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("toy.json", None, "toy.json is not there; `python -m benchmarks.toy`"),
        ("adjoint.json", lambda r: r.pop("against_n"), "adjoint.json is not complete"),
        ("grids.json", lambda r: r["setting"]["seeds"]["grids"].clear(), "grids.json is not comp"),
        ("toy.json", lambda r: r["cells"].pop("cnf"), "toy.json is not complete"),
    ],
)
def test_judging_refuses_where_another_benchmark_left_nothing(
    name, spoil, words, judging, tmp_path, monkeypatch
):
    results = tmp_path / "results"
    results.mkdir()
    for other in ledger.REPORTS:
        report = ledger.read(other)
        if other == name and spoil:
            spoil(report)
        if other != name or spoil:
            (results / other).write_text(json.dumps(report))
    monkeypatch.setattr(ledger, "FOLDER", results)
    with pytest.raises(SystemExit) as refused:
        judging(REPORT)
    assert words in str(refused.value)


# The committed ledger ----------------------------------------------------------------------------


def test_the_committed_verdicts_follow_from_the_committed_cases():
    for claim in REPORT["claims"]:
        cases = [
            Case(**{k: v for k, v in case.items() if k != "outcome"}) for case in claim["cases"]
        ]
        assert verdict(cases) == claim["verdict"], claim["name"]
        assert [case.outcome for case in cases] == [c["outcome"] for c in claim["cases"]]


def test_no_committed_claim_is_said_to_hold_that_loses_more_than_it_wins():
    for claim in REPORT["claims"]:
        outcomes = [case["outcome"] for case in claim["cases"]]
        if outcomes.count(-1) > outcomes.count(1):
            assert claim["verdict"] in (MIXED, FAILS), claim["name"]


def test_a_stated_threshold_is_the_one_that_the_cases_are_judged_by():
    for claim in REPORT["claims"]:
        for number in {
            c["margin"] for c in claim["cases"] if c["margin"] in ledger.MARGIN.values()
        }:
            (unit,) = {c["unit"] for c in claim["cases"] if c["margin"] == number}
            assert ledger.beyond(unit) in claim["threshold"], claim["name"]


def test_judging_the_committed_measurements_again_gives_the_committed_claims():
    again = [ledger.judged(claim) for claim in ledger.claims(REPORT["measured"])]
    assert json.loads(json.dumps(again)) == REPORT["claims"]


def test_the_table_has_a_row_a_claim_with_verdict_and_source():
    lines = ledger.table(REPORT).splitlines()[2:]
    assert len(lines) == len(REPORT["claims"]) == 13
    for line, claim in zip(lines, REPORT["claims"], strict=True):
        assert claim["says"] in line and claim["source"] in line
        assert f"**{ledger.shown_verdict(claim)}**" in line
        assert claim["rests_on"] in line and claim["threshold"] in line
        assert line.count("|") == 7
    assert REPORT["table"] == ledger.table(REPORT)


def test_the_committed_ledger_judges_the_weights_and_results_of_today(judging):
    assert (
        ledger.lacking_results() == []
        and ledger.lacking(REPORT["measured"], REPORT["trainings_at_20"]) == []
    ), "run python -m benchmarks.ledger"
    assert judging(REPORT) == REPORT


def test_what_the_committed_claims_rest_on_is_what_was_trained():
    rests_on = {claim["name"]: claim["rests_on"] for claim in REPORT["claims"]}
    assert rests_on["crossings"] == rests_on["fills the Gaussian"] == "1 training, 3 draws"
    assert rests_on["FFJORD leaks"].startswith("3 trainings; 1 training, 1 draw (")
    assert rests_on["a flow as g → 0"] == "3 draws, nothing trained"
    assert rests_on["adjoint memory"] == "1 measurement"
    assert rests_on["six times the cost"].startswith("1 measurement; 3 trainings (to equal bound")
    (claim,) = (c for c in REPORT["claims"] if c["name"] == "fewer steps")
    assert claim["conditions"]["N = 5, log-SNR grid"]["rests_on"] == "3 trainings"
    trainings = REPORT["trainings_at_20"]
    assert ("N = 20 trained here" in claim["source"]) == (trainings > 0)
    if trainings > 1:
        twenty = claim["conditions"]["N = 20, log-SNR grid"]
        assert twenty["rests_on"] == f"{trainings} trainings"
