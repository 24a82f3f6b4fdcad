"""How an answer is checked: run it beside the truth, and recognise the slips worth a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

RTOL = 1e-5
"""The cases are float64; an answer that passes through float32 on its way is still right."""


FACTORS = {
    -1.0: "the sign is turned.",
    2.0: "too large by a factor of 2.",
    0.5: "too small by a factor of 2.",
}
"""What is said of an answer that is the truth times a number, where no slip explains it."""


@dataclass(frozen=True)
class Slip:
    """A wrong answer that many give, and what to say to those who do."""

    answer: Callable[..., Any]
    message: str


def check_function(
    name: str,
    answer: Any,
    truth: Callable[..., Tensor],
    slips: Sequence[Slip],
    cases: Sequence[tuple[Any, ...]],
    praise: str,
) -> bool:
    """Compare answer(*case) with truth(*case); print one line and return whether all agree.

    Never raises: an answer that does, that returns nothing, the wrong shape or a NaN, is told so.
    A slip is recognised when it explains the answer in every case.
    """
    hint = find_fault(name, answer, truth, slips, cases)
    print(f"✓ {name}: {praise}" if hint is None else f"✗ {name}: {hint}")
    return hint is None


def find_fault(
    name: str,
    answer: Any,
    truth: Callable[..., Tensor],
    slips: Sequence[Slip],
    cases: Sequence[tuple[Any, ...]],
) -> str | None:
    """What is wrong with the answer, in one line, or None if nothing is."""
    if not callable(answer):
        return f"pass the function itself, {name}; got {_describe(answer)}."
    values = _answers(answer, cases)
    if isinstance(values, str):
        return values
    found, fault = [_as_tensor(value) for value in values], None
    for value, case in zip(values, cases, strict=True):
        fault = fault or _fault_of_value(value, truth(*_copies(case)))
    if fault is None and _agree(found, truth, cases):
        return None
    for slip in slips:  # first, since some slips show in the shape
        if _agree(found, slip.answer, cases):
            return slip.message
    if fault is not None:
        return fault
    again = iter(_answers(answer, cases))
    if not _agree(found, lambda *case: next(again), cases):
        return (
            "it gives another answer each time: use the noise that is passed in, "
            "and draw none of your own."
        )
    for factor, words in FACTORS.items():
        if _agree(found, lambda *case, c=factor: c * truth(*case), cases):
            return words
    worst = max(
        float((value - truth(*_copies(case))).abs().max())
        for value, case in zip(found, cases, strict=True)
    )
    return f"not yet: some numbers are off by up to {worst:.2g}. Compare term by term."


def _answers(answer: Callable[..., Any], cases: Sequence[tuple[Any, ...]]) -> list[Any] | str:
    """What the answer returns in every case, or, where it raises, that in words."""
    values = []
    for case in cases:
        try:
            values.append(answer(*_copies(case)))
        except (Exception, SystemExit) as error:  # whatever a student's code raises is an answer
            said = " ".join(_words_of(error).split())
            came = ", ".join(map(_kind_of, case))
            return f"your function raised {type(error).__name__}: {said} (It was given {came}.)"
    return values


def _fault_of_value(value: Any, expected: Tensor) -> str | None:
    """What is wrong with one returned value before its numbers are looked at."""
    if value is None:
        return "it returned None. Replace the last line of the stub by the formula."
    tensor = _as_tensor(value)
    if tensor is None and isinstance(value, Tensor) and value.is_complex():
        return "it returned complex numbers; expected real ones."
    if tensor is None:
        return f"it returned {_describe(value)}; expected numbers, shape {_shape(expected)}."
    if tensor.shape != expected.shape:
        return f"it returned shape {_shape(tensor)}; expected {_shape(expected)}."
    if not tensor.isfinite().all():
        return "it returned NaN or infinity: look for a division by 0 or the log of 0."
    return None


def _agree(
    values: Sequence[Tensor | None], function: Callable[..., Any], cases: Sequence[tuple[Any, ...]]
) -> bool:
    """Whether the values are what the function gives, up to rounding, in every case."""
    for value, case in zip(values, cases, strict=True):
        other = _as_tensor(function(*_copies(case)))
        if value is None or other is None or value.shape != other.shape or value.numel() == 0:
            return False
        # Written so that a NaN agrees with nothing.
        if not float((value - other).abs().max()) <= RTOL * (1 + float(other.abs().max())):
            return False
    return True


def _copies(case: tuple[Any, ...]) -> tuple[Any, ...]:
    # A function that works in place must not change the question for the next one.
    return tuple(each.clone() if isinstance(each, Tensor) else each for each in case)


def _as_tensor(value: Any) -> Tensor | None:
    """Real numbers of any kind as float64 without gradient, or None."""
    if isinstance(value, (str, bytes)):
        return None
    try:
        tensor = torch.as_tensor(value).detach().cpu().to_dense()
        if tensor.is_complex() and not tensor.imag.any():
            tensor = tensor.real
        return None if tensor.is_complex() else tensor.to(torch.float64)
    except Exception:  # what as_tensor raises depends on what it was given
        return None


def _words_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an error of the student's own class
        return "it cannot even say what"


def _kind_of(value: Any) -> str:
    """One argument in a word or two, for those who got its shape wrong."""
    if isinstance(value, Tensor):
        return f"a tensor {_shape(value)}"
    if callable(value) and hasattr(value, "__name__"):
        return "a function"
    return repr(value) if isinstance(value, (int, float)) else f"a {type(value).__name__}"


def _describe(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _shape(tensor: Tensor) -> str:
    return "() (a number)" if tensor.ndim == 0 else str(tuple(tensor.shape))
