"""The ledger: verdicts follow from numbers by one rule, and planted numbers turn them."""

from __future__ import annotations

import copy
import json
import math

import pytest

from benchmarks import ledger
from benchmarks.ledger import FAILS, HOLDS, HOLDS_WHEN, Case, verdict
from benchmarks.toy import MACHINES

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
    ],
)
def test_an_effect_counts_only_beyond_its_spread_and_its_margin(effect, spread, margin, outcome):
    assert case(effect, spread=spread, margin=margin).outcome == outcome


def test_the_verdict_turns_with_the_numbers():
    assert verdict([case(1.0), case(1.0, "b")]) == HOLDS
    assert verdict([case(1.0), case(-1.0, "b")]) == HOLDS_WHEN
    assert verdict([case(-1.0), case(-1.0, "b")]) == FAILS
    assert verdict([case(0.0), case(0.0, "b")]) == FAILS  # no difference is no support


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
    claim = ledger.Claim("n", "s", "set", "src", (case(1.0, "N = 5"), case(-1.0, "N = 30")), 1)
    found = ledger.judged(claim)
    assert found["verdict"] == HOLDS_WHEN
    assert ledger.shown_verdict(found) == "holds when N = 5"
    assert [c["outcome"] for c in found["cases"]] == [1, -1]


def test_a_condition_that_is_won_by_most_says_so():
    cases = (case(1.0, "N = 5"), case(1.0, "N = 5"), case(-1.0, "N = 5"), case(-1.0, "N = 30"))
    found = ledger.judged(ledger.Claim("n", "s", "set", "src", cases, 1))
    assert ledger.shown_verdict(found) == "holds when N = 5 (mostly)"


def test_a_claim_without_a_case_has_no_verdict():
    with pytest.raises(ValueError, match="cases must hold at least one comparison"):
        verdict([])


# Claims from planted numbers ---------------------------------------------------------------------


def planted_toy(gap, leak, log_prob=0.5, seeds=3):
    """A report like toy.json's in which machine m reads gap[m] and leak[m] on every set."""

    def cell(machine):
        def number(value):
            return {"mean": value, "spread": 0.01}

        return {
            "seeds": seeds,
            "gap": number(gap.get(machine, 1.0)),
            "leak": {"mean": leak.get(machine, 0.05), "spread": 0.001},
            "bound": number(1.0),
            "log_prob": number(log_prob),
        }

    return {
        "cells": {m: {s: cell(m) for s in ledger.SETS} for m in MACHINES},
        "costs": {m: {"step": 1e-3 * MACHINES[m].batch_size} for m in MACHINES},
    }


def test_fewer_steps_holds_where_diffflow_is_ahead_at_every_n_and_not_where_it_is_behind():
    ours = {f"diffflow-{n}": 0.5 for n in (5, 10, 30)}
    assert verdict(ledger.fewer_steps(planted_toy(ours, {})).cases) == HOLDS
    assert verdict(ledger.sharper(planted_toy({}, dict.fromkeys(ours, 0.01))).cases) == HOLDS
    few = ledger.judged(ledger.fewer_steps(planted_toy({"diffflow-5": 0.5}, {})))
    assert ledger.shown_verdict(few) == "holds when N = 5, log-SNR grid"
    behind = dict.fromkeys(ours, 2.0)
    assert verdict(ledger.fewer_steps(planted_toy(behind, {})).cases) == FAILS


def test_flows_leak_turns_with_their_leak(monkeypatch):
    class Weights:
        def __init__(self, leak):
            self.card = {"metrics": {"leak": leak}}

    def shipped(flow, ours):
        return lambda kind, name, n: Weights(flow if kind == "cnf" else ours)

    leaky, tight = planted_toy({}, {"cnf": 0.3}), planted_toy({}, {})
    monkeypatch.setattr(ledger, "chain", shipped(flow=0.2, ours=0.1))
    assert verdict(ledger.flows_leak(leaky).cases) == HOLDS
    assert verdict(ledger.flows_leak(tight).cases) == HOLDS_WHEN
    monkeypatch.setattr(ledger, "chain", shipped(flow=0.1, ours=0.1))
    assert verdict(ledger.flows_leak(tight).cases) == FAILS


def test_the_ode_is_better_where_its_nll_lies_below_the_bound():
    assert verdict(ledger.ode_beats_bound(planted_toy({}, {}, log_prob=-0.5)).cases) == HOLDS
    assert verdict(ledger.ode_beats_bound(planted_toy({}, {}, log_prob=-1.5)).cases) == FAILS


@pytest.mark.parametrize(("ratio", "found"), [(6, HOLDS), (4, HOLDS), (1, FAILS), (40, FAILS)])
def test_six_times_the_cost_is_within_a_factor_of_two_of_six(ratio, found):
    report = planted_toy({}, {})
    for n in (5, 10, 30):
        report["costs"][f"diffflow-{n}"]["step"] *= ratio
    assert verdict(ledger.six_times_the_cost(report).cases) == found


def test_a_number_that_a_machine_lacks_is_left_out():
    report = planted_toy({}, {})
    del report["cells"]["diffflow-5"]["checkerboard"]["gap"]
    del report["cells"]["ddpm-log_snr-10"]
    counts = {k: len(v) for k, v in ledger.conditions(ledger.fewer_steps(report).cases).items()}
    assert counts == {"N = 5, log-SNR grid": 3, "N = 30, log-SNR grid": 4, "N = 30, linear β": 4}


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
        return {"mean": value, "spread": 0.01, "values": [value]}

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


def test_what_is_measured_here_turns_with_the_measurements():
    measured = copy.deepcopy(REPORT["measured"])

    def turned(claim, change):
        planted = copy.deepcopy(measured)
        change(planted)
        return verdict(claim(planted).cases)

    def set_all(what, prefix, values, part="latents"):
        def change(planted):
            for key, found in planted[part].items():
                if key.startswith(prefix):
                    if what is None:
                        planted[part][key] = values
                    else:
                        found[what] = values

        return change

    def modes(m):
        return ledger.modes_apart(m["latents"])

    assert turned(modes, set_all("mode_survival", "diffflow", [0.99] * 3)) == HOLDS
    assert turned(modes, set_all("mode_survival", "diffflow", [0.01] * 3)) == FAILS

    def gaussian(m):
        return ledger.fills_the_gaussian(m["latents"])

    assert turned(gaussian, set_all("w2_to_normal", "cnf", [0.9] * 3)) == HOLDS
    assert turned(gaussian, set_all("w2_to_normal", "cnf", [0.0] * 3)) == FAILS

    def crossing(m):
        return ledger.crossings(m["crossings"])

    assert turned(crossing, set_all(None, "ddpm", [0.5] * 3, "crossings")) == HOLDS
    assert turned(crossing, set_all(None, "diffflow", [0.5] * 3, "crossings")) == FAILS


def test_lambda_one_is_judged_against_each_of_the_others():
    def found(ours, others):
        return {
            f"{name}/{n}/{lam:g}": {
                what: [ours if lam == 1 else others] * 3 for what in ("leak", "sliced_w2")
            }
            for name in ("olympic_rings", "checkerboard")
            for n in (5, 10, 30)
            for lam in ledger.LAMBDAS
        }

    planted = found(0.1, 0.5)
    assert verdict(ledger.lambda_one(planted).cases) == HOLDS
    for key in planted:
        if key.endswith("/1.5"):
            planted[key] = {"leak": [0.01] * 3, "sliced_w2": [0.01] * 3}
    beaten = ledger.shown_verdict(ledger.judged(ledger.lambda_one(planted)))
    assert beaten.startswith("holds when") and "λ = 0.5" in beaten and "λ = 1.5" not in beaten
    assert verdict(ledger.lambda_one(found(0.5, 0.1)).cases) == FAILS


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
    assert ledger.shown_verdict(held) == "holds when Δt ≪ g ≪ 1"
    assert verdict(ledger.becomes_a_flow(found(0.01, 0.01)).cases) == HOLDS
    assert verdict(ledger.becomes_a_flow(found(1.0, 5.0)).cases) == FAILS


# The committed ledger ----------------------------------------------------------------------------


def test_the_committed_verdicts_follow_from_the_committed_cases():
    for claim in REPORT["claims"]:
        cases = [
            Case(**{k: v for k, v in case.items() if k != "outcome"}) for case in claim["cases"]
        ]
        assert verdict(cases) == claim["verdict"], claim["name"]
        assert [case.outcome for case in cases] == [c["outcome"] for c in claim["cases"]]


def test_judging_the_committed_measurements_again_gives_the_committed_claims():
    again = [ledger.judged(claim) for claim in ledger.claims(REPORT["measured"])]
    assert json.loads(json.dumps(again)) == REPORT["claims"]


def test_the_table_has_a_row_a_claim_with_verdict_and_source():
    lines = ledger.table(REPORT).splitlines()[2:]
    assert len(lines) == len(REPORT["claims"]) >= 11
    for line, claim in zip(lines, REPORT["claims"], strict=True):
        assert claim["says"] in line and claim["source"] in line
        assert f"**{ledger.shown_verdict(claim)}**" in line
        assert line.count("|") == 5
    assert REPORT["table"] == ledger.table(REPORT)


def test_a_measurement_that_is_there_is_not_repeated(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(ledger, "MEASUREMENTS", {"a": lambda: calls.append(1) or {"x": 2}})
    assert ledger.measured_in(tmp_path) == ledger.measured_in(tmp_path) == {"a": {"x": 2}}
    assert len(calls) == 1
