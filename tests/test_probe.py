"""The map to probe without a browser: its values, what it reads, and what a dead page shows."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from diffflow_edu import toy
from diffflow_edu.player.probe import ProbeMap, cell_centres, decimals, probe


def hill(x):
    """log N(x; 0, I)."""
    return -0.5 * x.square().sum(1) - math.log(2 * math.pi)


def half_plane(x):
    """The same right of 0, nothing left of it."""
    return torch.where(x[:, 0] > 0, hill(x), -math.inf)


def tiny(**options) -> ProbeMap:
    settings = {"view": (1.0, -1.0, 2.0), "cells": 4, "title": "A hill"} | options
    return probe({"whole": hill, "half": half_plane}, **settings)


def test_the_page_gets_the_densities_at_the_centres_of_the_cells():
    sent = np.frombuffer(tiny().values, "<f4").reshape(2, 4, 4)
    centres = cell_centres((1.0, -1.0, 2.0), 4)
    assert centres[0].tolist() == [-0.5, -2.5] and centres[-1].tolist() == [2.5, 0.5]
    assert np.allclose(sent[0], hill(centres).reshape(4, 4), atol=1e-6)
    assert np.array_equal(sent[1, :, 0], np.full(4, -np.inf, np.float32))


def test_the_coordinates_of_two_neighbouring_cells_never_read_the_same():
    for half, cells in ((2.0, 4), (0.1, 32), (0.1, 1000), (3e-5, 7)):
        shown = decimals(2 * half / cells)
        assert tiny(view=(1.0, -1.0, half), cells=cells).spec["decimals"] == shown >= 2
        line = cell_centres((0.0, 0.0, half), cells)[:cells, 0]
        assert len({f"{x:.{shown}f}" for x in line.tolist()}) == cells


def test_values_may_be_given_in_place_of_a_density():
    values = hill(cell_centres((0, 0, 1), 3))
    assert probe({"a": values}, (0, 0, 1), 3).values == probe({"a": hill}, (0, 0, 1), 3).values


def test_a_point_reads_the_cell_that_holds_it():
    found = tiny().read((0.6, 0.9))  # the cell with its centre at (0.5, 0.5)
    expected = float(hill(torch.tensor([[0.5, 0.5]])))
    assert found == pytest.approx({"whole": expected, "half": expected}, abs=1e-6)
    assert tiny().read((-0.1, 0.9))["half"] == -math.inf
    assert tiny().read((3.1, 0.0)) is None and tiny().read((0.0, -3.1)) is None


def test_the_mass_of_a_density_is_one():
    # 80 cells of .15, out to 6 stds: for a Gaussian the midpoint rule then errs far below 1e-6.
    mass = probe({"whole": hill, "half": half_plane}, (0, 0, 6), 80).mass()
    assert mass == pytest.approx({"whole": 1, "half": 0.5}, abs=1e-6)


def test_the_exact_checkerboard_has_mass_one_where_the_cells_fit_the_squares():
    board = toy.load("checkerboard")
    side = float(board.sample(20_000, seed=0).abs().max()) / 2
    mass = probe({"exact": board.log_prob}, (0, 0, 2.5 * side), 50).mass()["exact"]
    assert mass == pytest.approx(1, abs=1e-3)  # the side is that of the outermost of 20 000 points


def test_where_no_kernel_runs_there_is_a_picture_and_words_that_never_change():
    one = tiny(probes=[(0.5, 0.5)])
    data, metadata = one._repr_mimebundle_()
    picture = Image.open(io.BytesIO(data["image/png"]))
    assert picture.width > 400 and len(picture.getcolors()) > 64  # maps need shades
    words = (
        "A hill. Maps of log p in nats: whole, half, 4 × 4 cells of the square of half side 2 "
        "around (1, -1)."
    )
    assert data["text/plain"] == repr(one) == metadata["image/png"]["alt"] == words
    assert one.spec["alt"] == words


def test_probes_are_kept_as_numbers_and_the_spec_says_how_to_read():
    one = tiny(probes=torch.tensor([[0.5, 0.25]]), depth=5)
    assert one.probes == [[0.5, 0.25]]
    assert one.spec["names"] == ["whole", "half"] and one.spec["view"] == [1, -1, 2]
    assert one.spec["depth"] == 5
    assert one.spec["top"] == pytest.approx(float(hill(torch.tensor([[0.5, -0.5]]))))
    assert all(len(shade) == 7 and shade[0] == "#" for shade in one.spec["palette"])


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: probe({}, (0, 0, 1)), "maps must hold at least one density by name, got {}"),
        (lambda: probe(hill, (0, 0, 1)), "maps must hold at least one density by name"),
        (lambda: tiny(cells=0), "cells must be a whole number, 1 or more, got 0"),
        (lambda: tiny(view=(0, 0, 0)), r"view must be \(x, y, half side > 0\)"),
        (lambda: tiny(view=(0, 0)), r"view must be \(x, y, half side > 0\)"),
        (lambda: tiny(view=5), r"view must be \(x, y, half side > 0\), all finite, got 5"),
        (lambda: tiny(view=(0, 0, math.inf)), r"view must be .* all finite, got \(0, 0, inf\)"),
        (lambda: tiny(view=(math.nan, 0, 1)), r"view must be .* all finite, got \(nan, 0, 1\)"),
        (lambda: tiny(depth=-1), "depth must be a finite number > 0, in nats, got -1"),
        (lambda: tiny(depth="a"), "depth must be a finite number > 0, in nats, got 'a'"),
        (lambda: tiny(depth=math.nan), "depth must be a finite number > 0, in nats, got nan"),
        (lambda: tiny(probes=[(1, 2, 3)]), r"probes must be points \(x, y\), two finite numbers"),
        (lambda: tiny(probes=[(1, math.nan)]), r"probes must be points .* got \[\(1, nan\)\]"),
        (lambda: tiny(probes=7), r"probes must be points \(x, y\), .* got 7"),
        (lambda: tiny().read((math.nan, 0)), r"point must be \(x, y\), .* got \(nan, 0\)"),
        (lambda: tiny().read(3.0), r"point must be \(x, y\), two finite numbers, got 3.0"),
        (lambda: tiny().read((1, 2, 3)), r"point must be \(x, y\), .* got \(1, 2, 3\)"),
        (
            lambda: probe({"a": torch.zeros(5)}, (0, 0, 1), 4),
            r"maps\['a'\] must give one log p a cell, 16, got shape \(5,\)",
        ),
        (
            lambda: probe({"a": torch.full((16,), -math.inf)}, (0, 0, 1), 4),
            "maps must hold a finite log p somewhere, found none",
        ),
    ],
)
def test_bad_arguments_are_named(run, message):
    with pytest.raises(ValueError, match=message):
        run()
