"""Dials: several families of trajectories in one player, one of which is shown at a time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from diffflow_edu.figures.style import as_panels
from diffflow_edu.processes.base import Trajectory
from diffflow_edu.schedules import shortly


def unfold(trajectories: object) -> tuple[dict[str, list[str]], list[dict[str, Trajectory]]]:
    """The dials of a nested dict, and the panels for every setting of them, last dial fastest.

    A dict with one name and a dict of settings is a dial, ``{"N": {5: panels, 10: panels}}``, and
    panels are what `as_panels` takes. Dials nest: each setting may hold another dial. Raises
    ValueError unless every setting offers the same dials, panels and number of particles, and the
    panels of one setting the same number of steps.
    """
    runs = _unfold(trajectories)
    (_, first), *_ = runs
    _check_alike(first)
    for setting, panels in runs[1:]:
        where = ", ".join(f"{dial} = {value}" for dial, value in setting.items())
        _check_alike(panels)
        if list(panels) != list(first):
            raise ValueError(
                "trajectories must have the same panels at every setting of a dial, got "
                f"{list(first)} and, at {where}, {list(panels)}"
            )
        counts = [next(iter(p.values())).states.shape[1] for p in (first, panels)]
        if counts[0] != counts[1]:
            raise ValueError(
                "trajectories must have the same number of particles at every setting of a dial, "
                f"got {counts[0]} and, at {where}, {counts[1]}"
            )
        shapes = [tuple(next(iter(p.values())).states.shape[2:]) for p in (first, panels)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                "trajectories must hold particles of one shape at every setting of a dial, "
                f"got {shapes[0]} and, at {where}, {shapes[1]}"
            )
    names = list(runs[0][0])
    dials = {name: list(dict.fromkeys(s.get(name) for s, _ in runs)) for name in names}
    every = [dict(zip(names, values, strict=True)) for values in itertools.product(*dials.values())]
    if [setting for setting, _ in runs] != every:
        raise ValueError(
            "trajectories must offer the same dials, with the same settings, at every setting of "
            f"an outer dial, got {[setting for setting, _ in runs]}"
        )
    return dials, [panels for _, panels in runs]


def _unfold(trajectories: object) -> list[tuple[dict[str, str], dict[str, Trajectory]]]:
    nested = isinstance(trajectories, Mapping) and any(
        isinstance(value, Mapping) for value in trajectories.values()
    )
    if not nested:
        return [({}, as_panels(trajectories, images=True))]
    if len(trajectories) != 1:
        raise ValueError(
            "trajectories: a dial is a dict with one name, such as {'N': {5: …, 10: …}}; "
            f"got the names {list(trajectories)}"
        )
    ((name, settings),) = trajectories.items()
    if not settings:
        raise ValueError(f"trajectories: the dial {shortly(name)} must have at least one setting")
    return [
        ({str(name): str(value)} | inner, panels)
        for value, below in settings.items()
        for inner, panels in _unfold(below)
    ]


def _check_alike(panels: Mapping[str, Trajectory]) -> None:
    first, *others = panels
    n, b = panels[first].states.shape[:2]
    for name in others:
        other_n, other_b = panels[name].states.shape[:2]
        if (other_n, other_b) != (n, b):
            raise ValueError(
                "trajectories must have the same number of steps and particles in every panel, got "
                f"{n - 1} steps × {b} particles in {shortly(first)} and "
                f"{other_n - 1} steps × {other_b} particles in {shortly(name)}"
            )


def settings_of(dials: Mapping[str, list[str]]) -> list[dict[str, str]]:
    """Every setting of the dials, last dial fastest, as `unfold` orders its runs.

    >>> settings_of({"N": ["5", "10"]})
    [{'N': '5'}, {'N': '10'}]
    """
    return [dict(zip(dials, values, strict=True)) for values in itertools.product(*dials.values())]


def models_at(
    argument: str, models: object, dials: Mapping[str, list[str]]
) -> list[Mapping[str, Any]]:
    """The models by panel title at every setting of the dials, in the order of `settings_of`.

    models: a dict by panel title, which then holds at every setting, or one nested as the
    trajectories are, ``{"N": {5: {"DDPM": a}, 10: {"DDPM": b}}}``. Raises ValueError where a
    setting is missing.
    """
    return [_models_at(argument, models, setting) for setting in settings_of(dials)]


def _models_at(argument: str, models: object, setting: Mapping[str, str]) -> Mapping[str, Any]:
    for dial, value in setting.items():
        if not isinstance(models, Mapping) or list(map(str, models)) != [dial]:
            break
        ((_, below),) = models.items()
        by_value = {str(k): v for k, v in below.items()} if isinstance(below, Mapping) else {}
        if value not in by_value:
            raise ValueError(
                f"{argument} must have every setting of the dial {shortly(dial)}, "
                f"got {list(by_value)} without {shortly(value)}"
            )
        models = by_value[value]
    if not isinstance(models, Mapping):
        raise ValueError(
            f"{argument} must be a dict of models by panel title, got {type(models).__name__}"
        )
    return models
