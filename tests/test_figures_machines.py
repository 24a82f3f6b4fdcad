"""Machines side by side and the noise dial: every number is drawn where it belongs."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
import pytest
import torch

from diffflow_edu import figures


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def record(n, budget, **values):
    found = {
        "gap": 1.0,
        "leak": 0.02,
        "mode_survival": 0.5,
        "mode_survival_chance": 0.2,
        "w2_to_normal": 0.1,
        "w2_to_normal_floor": 0.03,
    }
    return {"N": n, "budget": budget, "metrics": found | values}


DIAL = [
    record(10, 1.0, gap=0.9, leak=0.01, mode_survival=0.3),
    record(10, 0.1, gap=0.7, leak=0.03, mode_survival=0.5),
    record(5, 0.1, gap=1.5, leak=0.2, mode_survival=0.6),
]


def test_the_dial_draws_four_measures_one_line_a_number_of_steps():
    figure = figures.noise_dial(DIAL, title="best in the middle")
    gap, leak, survival, w2 = figure.axes
    assert figure.get_suptitle() == "best in the middle"
    assert gap.get_legend_handles_labels()[1] == ["N = 10", "N = 5"]
    ten = gap.lines[0].get_xydata().tolist()
    assert ten == [[0.1, 0.7], [1.0, 0.9]]  # by rising budget, whatever the records' order
    assert all(axes.get_xscale() == "log" for axes in figure.axes)


def test_the_line_goes_through_the_means_and_the_band_from_least_to_greatest():
    twin = {**DIAL[0], "metrics": DIAL[0]["metrics"] | {"gap": DIAL[0]["metrics"]["gap"] + 0.4}}
    gap = figures.noise_dial([*DIAL, twin]).axes[0]
    n, budget = DIAL[0]["N"], DIAL[0]["budget"]
    number = [10, 5].index(n)
    lines = [line for line in gap.lines if line.get_label() == f"N = {n}"]
    at = dict(lines[0].get_xydata().tolist())[budget]
    assert at == pytest.approx(DIAL[0]["metrics"]["gap"] + 0.2)
    here = [y for x, y in gap.collections[number].get_paths()[0].vertices if x == budget]
    assert max(here) - min(here) == pytest.approx(0.4)


def test_a_ring_marks_the_least_gap_and_the_least_leak_of_every_number_of_steps():
    gap, leak, survival, w2 = figures.noise_dial(DIAL).axes

    def ringed(axes):
        return [line.get_xydata().tolist()[0] for line in axes.lines if line.get_ms() == 15]

    assert ringed(gap) == [[0.1, 0.7], [0.1, 1.5]]
    assert ringed(leak) == [[1.0, 0.01], [0.1, 0.2]]
    assert ringed(survival) == ringed(w2) == []


def test_chance_and_floor_are_drawn_and_named():
    *_, survival, w2 = figures.noise_dial(DIAL).axes
    assert [t.get_text() for t in survival.texts] == ["chance"]
    assert [t.get_text() for t in w2.texts] == ["floor"]
    assert survival.lines[-1].get_ydata()[0] == pytest.approx(0.2)
    assert w2.lines[-1].get_ydata()[0] == pytest.approx(0.03)


def test_other_measures_can_be_asked_for():
    figure = figures.noise_dial(DIAL, panels={"gap": "gap"})
    assert [axes.get_ylabel() for axes in figure.axes] == ["gap"]


def clouds(n=30):
    draw = torch.Generator().manual_seed(0)
    return {m: torch.randn(n, 2, generator=draw) for m in ("CNF", "DDPM")}


def test_a_row_a_set_a_column_a_machine_and_a_note_below_each():
    rings, board = clouds(), clouds(20)
    figure = figures.latent_clouds(
        {"rings": rings, "board": board},
        {"rings": torch.arange(30) % 5, "board": torch.arange(20) % 8},
        notes={"rings": {"CNF": "98 % stay"}},
        title="who forgets",
    )
    a, b, c, d = figure.axes
    assert [axes.get_title() for axes in (a, b)] == ["CNF", "DDPM"]
    assert [axes.get_ylabel() for axes in (a, c)] == ["rings", "board"]
    assert [axes.get_xlabel() for axes in (a, b, c, d)] == ["98 % stay", "", "", ""]
    drawn = torch.as_tensor(d.collections[0].get_offsets().data)
    assert torch.allclose(drawn.float(), board["DDPM"])
    shades = a.collections[0].get_facecolor()
    assert (shades[0] == shades[5]).all() and (shades[0] != shades[1]).any()
    assert figure.get_suptitle() == "who forgets"


def test_the_circles_are_contours_of_the_standard_normal():
    figure = figures.latent_clouds({"rings": clouds()}, {"rings": torch.arange(30)})
    radii = [line.get_xydata()[:, 0].max() for line in figure.axes[0].lines]
    assert radii == pytest.approx([1.0, 2.0])


def test_a_bar_a_claim_counts_the_comparisons_and_names_the_verdict():
    claims = [
        {"name": "a", "verdict": "holds", "cases": [{"outcome": 1}] * 3},
        {"name": "b", "verdict": "fails", "cases": [{"outcome": o} for o in (1, 0, -1, -1)]},
    ]
    figure = figures.verdict_bars(claims, title="weighed")
    (axes,) = figure.axes
    widths = [bar.get_width() for bars in axes.containers for bar in bars]
    assert widths == pytest.approx([1, 0.25, 0, 0.25, 0, 0.5])  # for, tie, against; a then b
    assert [t.get_text() for t in axes.texts] == ["3", "1", "1", "2", "holds", "fails"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_yticks()[0] > axes.get_yticks()[1]  # the first claim on top


def condition(won=False, lost=False, against=0, **counts):
    return {"won": won, "lost": lost, "against": against} | counts


MATRIX = [
    {
        "name": "a",
        "threshold": "more than 0.05 nats",
        "verdict": "mixed",
        "conditions": {
            "N = 5, grid": condition(won=True, **{"for": 2, "of": 2}),
            "N = 10": condition(lost=True, against=3, **{"for": 1, "of": 4}),
        },
    },
    {
        "name": "b",
        "threshold": "at most 3 %",
        "verdict": "holds",
        "conditions": {f"N = {n}": condition(**{"for": 0, "of": 1}) for n in range(7)},
    },
]


def test_a_cell_a_condition_counts_its_comparisons_and_every_claim_prints_its_threshold():
    figure = figures.claim_matrix(MATRIX, title="weighed")
    (axes,) = figure.axes
    words = [text.get_text() for text in axes.texts]
    for expected in ("a", "more than 0.05 nats", "mixed", "N = 5\ngrid", "2 of 2", "at most 3 %"):
        assert expected in words
    assert "1 of 4, 3 against" in words and words.count("0 of 1") == 7
    first, second, *others = (patch.get_facecolor() for patch in axes.patches)
    assert first != second and len({*others}) == 1 and others[0] not in (first, second)
    # The seventh condition of a claim begins another row.
    corners = [patch.get_xy() for patch in axes.patches]
    assert corners[2][1] < corners[8][1] and corners[2][0] == corners[8][0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: figures.noise_dial([]), "records must hold at least one setting"),
        (
            lambda: figures.noise_dial([{"N": 5, "budget": 1.0, "metrics": {"gap": 1.0}}]),
            "got one without leak, mode_survival, w2_to_normal",
        ),
        (lambda: figures.verdict_bars([]), "claims must hold at least one claim"),
        (lambda: figures.claim_matrix([]), "claims must hold at least one claim"),
        (lambda: figures.latent_clouds({}, {}), "latents must hold at least one set"),
        (lambda: figures.latent_clouds({"a": clouds()}, {}), r"got \[\] without 'a'"),
        (
            lambda: figures.latent_clouds(
                {"a": clouds(), "b": {"DDPM": torch.zeros(3, 2)}},
                {"a": torch.arange(30), "b": torch.arange(3)},
            ),
            r"same machines in every set, got \['CNF', 'DDPM'\] and, in 'b', \['DDPM'\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
