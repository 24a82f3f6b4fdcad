"""Every exercise: the solution passes, and every wrong answer is told what is wrong with it.

The solutions and the planted wrong answers are those of the files of single notebooks.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from diffflow_edu import exercises
from diffflow_edu.exercises.checking import Slip, check_function
from tests import (
    test_exercises_adjoint,
    test_exercises_colour,
    test_exercises_ddpm,
    test_exercises_flows,
    test_exercises_images,
    test_exercises_likelihood,
    test_exercises_machines,
    test_exercises_scores,
    test_exercises_start_here,
    test_exercises_two_sdes,
)

NOTEBOOKS = (
    test_exercises_flows,
    test_exercises_images,
    test_exercises_scores,
    test_exercises_ddpm,
    test_exercises_two_sdes,
    test_exercises_adjoint,
    test_exercises_likelihood,
    test_exercises_machines,
    test_exercises_colour,
)
SOLUTIONS = {check: answer for each in NOTEBOOKS for check, answer in each.SOLUTIONS.items()}
PLANTED = [planted for each in NOTEBOOKS for planted in each.PLANTED]


def test_every_check_of_the_package_has_a_solution_here():
    elsewhere = {check for check, _ in test_exercises_start_here.SOLUTIONS}
    assert {*SOLUTIONS, *elsewhere} == set(exercises.__all__)


@pytest.mark.parametrize(("check", "solution"), SOLUTIONS.items(), ids=list(SOLUTIONS))
def test_the_solution_passes(check, solution, capsys):
    assert getattr(exercises, check)(solution) is True
    assert capsys.readouterr().out.startswith("✓ ")


@pytest.mark.parametrize("check", SOLUTIONS)
def test_a_float32_or_numpy_solution_passes_too(check):
    # float32 keeps 1e-7 of each number, a hundred times less than the tolerance.
    solution = SOLUTIONS[check]
    assert getattr(exercises, check)(lambda *case: torch.as_tensor(solution(*case)).float()) is True
    assert getattr(exercises, check)(lambda *case: np.asarray(solution(*case))) is True


@pytest.mark.parametrize(
    ("check", "wrong", "words"), PLANTED, ids=[f"{c[6:]}: {w}" for c, _, w in PLANTED]
)
def test_a_planted_wrong_answer_is_recognised(check, wrong, words, capsys):
    assert getattr(exercises, check)(wrong) is False
    printed = capsys.readouterr().out
    assert printed.startswith("✗ ") and words in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize("check", SOLUTIONS)
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *case: None, "it returned None. Replace the last line of the stub"),
        (lambda *case: 1 / 0, "your function raised ZeroDivisionError: division by zero"),
        (lambda: 0.0, "your function raised TypeError"),
        (lambda *case: "δB", "it returned a value of type str; expected numbers"),
        (lambda *case: object(), "it returned a value of type object"),
        (lambda *case: torch.zeros(3, 1, 7), "it returned shape (3, 1, 7); expected ("),
        (None, "pass the function itself"),
        (3.0, "pass the function itself"),
    ],
    ids=["None", "raises", "signature", "text", "object", "shape", "no function", "a number"],
)
def test_an_answer_of_no_use_is_told_so_and_raises_nothing(check, answer, words, capsys):
    assert getattr(exercises, check)(answer) is False
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("check", SOLUTIONS)
def test_a_nan_in_the_answer_is_told_so(check, capsys):
    solution = SOLUTIONS[check]
    assert getattr(exercises, check)(lambda *case: math.nan * solution(*case)) is False
    assert "it returned NaN or infinity" in capsys.readouterr().out


@pytest.mark.parametrize("check", SOLUTIONS)
def test_an_unknown_wrong_answer_is_told_how_far_off_it_is(check, capsys):
    solution = SOLUTIONS[check]
    assert getattr(exercises, check)(lambda *case: solution(*case) + 0.25) is False
    assert "off by up to 0.25" in capsys.readouterr().out


def test_an_answer_that_works_in_place_does_not_change_the_question():
    def in_place(x, f, dt, g, noise):
        noise *= g * dt.sqrt()
        x += f * dt
        x += noise
        return x

    assert exercises.check_forward_step(in_place) is True


def test_complex_numbers_are_no_answer_unless_they_are_real(capsys):
    case = (torch.tensor([1.0, 2.0], dtype=torch.float64),)
    check = ("f", lambda x: 2 * x, [], [case], "good")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns where it drops an imaginary part
        assert check_function(check[0], lambda x: 2 * x + 0j, *check[1:])
        assert not check_function(check[0], lambda x: 2 * x + 1j, *check[1:])
    assert "complex numbers; expected real ones" in capsys.readouterr().out


def test_a_slip_must_explain_every_case(capsys):
    cases = [(torch.tensor(0.0),), (torch.tensor(1.0),)]
    slips = [Slip(lambda x: x, "you gave x back")]  # right at 0, where x = −x
    assert not check_function("f", lambda x: 2 * x, lambda x: -x, slips, cases, "right")
    assert "you gave x back" not in capsys.readouterr().out


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


class Opaque:
    def __array__(self, *args, **options):
        raise RuntimeError("no numbers here")

    def __repr__(self):
        raise RuntimeError("nothing to see")

    def __float__(self):
        raise RuntimeError("no number")

    def __bool__(self):
        raise RuntimeError("neither")


def raising(error):
    def answer(*args):
        raise error

    return answer


HOSTILE = [
    None, "a", b"b", 3, -1, math.nan, math.inf, 10**400, 1j, True, [], [[1], [2, 3]], {}, {"a": 1},
    (None,), torch.zeros(3), torch.zeros(0), torch.full((4, 2), math.nan), Opaque(), object(), int,
    np.array(["x"]), np.array([object()]), torch.zeros(2, dtype=torch.complex64),
    lambda: 1, lambda *a: a, lambda *a: "s", lambda *a: Opaque(), lambda *a: torch.zeros(0),
    lambda *a: torch.zeros(7, 7, 7), lambda *a: 10**400, lambda *a: torch.zeros(3).to_sparse(),
    lambda *a: torch.zeros(2, device="meta"), lambda *a: iter(a), lambda *a: 1j,
    raising(Unspeakable()), raising(ValueError("x")), raising(SystemExit(1)),
    raising(RecursionError()), raising(StopIteration()),
]  # fmt: skip


@pytest.mark.parametrize("check", exercises.__all__)
def test_no_answer_makes_a_check_raise(check, capsys):
    for answer in HOSTILE:
        assert getattr(exercises, check)(answer) is False
        assert capsys.readouterr().out.startswith("✗ ")
