"""A measured value beside the verdict on it: what the notebooks print in place of a bare True."""

from __future__ import annotations

from diffflow_edu.schedules import shortly


def verdict(
    what: str,
    value: float,
    unit: str = "",
    *,
    below: float | None = None,
    above: float | None = None,
    form: str = ".2f",
    exact: bool = False,
) -> None:
    """Print a value and whether it keeps its limits.

    A value that depends on the processor stands behind ≈, which tells the tests of a notebook to
    compare the verdict alone; leave a margin between such a value and its limit.

    what: is measured. value: a number. unit: behind the value. below, above: the limits, both
    excluded. form: of the number; one that ends in % shows limits in percent, too. exact: the value
    is the same on every machine to the digits shown. Raises ValueError without any limit.

    >>> verdict("gap", 0.5623, "nats", below=1.3)
    gap: ≈0.56 nats (below 1.3 ✓)
    >>> verdict("leak", 0.2, above=0.5, form=".1%")
    leak: ≈20.0% (above 50% ✗)
    """
    if below is None and above is None:
        raise ValueError(f"below or above must be given, got neither for {shortly(what)}")
    value = float(value)
    holds = (below is None or value < below) and (above is None or value > above)
    limits = [
        f"{word} {100 * limit:g}%" if form.endswith("%") else f"{word} {limit:g}"
        for word, limit in (("above", above), ("below", below))
        if limit is not None
    ]
    number = f"{'' if exact else '≈'}{value:{form}}{' ' * bool(unit)}{unit}"
    print(f"{what}: {number} ({' and '.join(limits)} {'✓' if holds else '✗'})")
