"""The toy densities against closed forms, quadrature and their own samples."""

import math

import pytest
import torch

from diffflow_edu import toy
from diffflow_edu.toy.curves import Curves, log_normal_mass

NAMES = toy.names()
BOXES = ["checkerboard", "sierpinski_carpet"]
RINGS = ["ring", "rotated_gaussian", "four_rings", "olympic_rings"]
SMOOTH = [name for name in NAMES if name not in BOXES]


@pytest.fixture(scope="module")
def densities():
    """Every density once, so that each entropy is integrated once."""
    return {name: toy.load(name) for name in NAMES}


def grid(low, high, count):
    """Midpoints of a square grid, (count², 2) float64, and the area of a cell."""
    step = (high - low) / count
    axis = low + step * (torch.arange(count, dtype=torch.float64) + 0.5)
    return torch.cartesian_prod(axis, axis), step**2


def test_the_catalogue_holds_the_ten_names():
    assert NAMES == [
        "ring",
        "rotated_gaussian",
        "four_rings",
        "olympic_rings",
        "checkerboard",
        "two_spirals",
        "eight_gaussians",
        "two_moons",
        "fractal_tree",
        "sierpinski_carpet",
    ]


# The density integrates to one.


@pytest.mark.parametrize("width", [0.001, 0.01, 0.2])
def test_a_ring_integrates_to_one_on_a_polar_grid(width):
    density = toy.load("ring", width=width)
    # Raw radius 0 to 1 + 10 widths in steps of a fortieth of a width; at any angle the same.
    step = width / 40
    low, high = max(0.0, 1 - 10 * width), 1 + 10 * width
    r = low + step * (torch.arange(round((high - low) / step), dtype=torch.float64) + 0.5)
    raw = torch.stack([r * math.cos(0.3), r * math.sin(0.3)], dim=1)
    log_p = density.log_prob((raw - density.shift) / density.scale) - 2 * math.log(density.scale)
    # The midpoint rule at 40 nodes a width: errors of 1e-4 only where the grid ends at radius 0.
    assert (log_p.exp() * 2 * math.pi * r).sum().item() * step == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["four_rings", "olympic_rings"])
def test_thin_crossing_rings_integrate_to_one_each_ring_on_its_own_polar_grid(name):
    # Split p by responsibility: on ring k's polar grid integrate p · [k is nearest].
    density = toy.load(name, width=0.02)
    angle = 2 * math.pi * (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    r = 1 + 0.02 * (torch.arange(100, dtype=torch.float64) - 49.5) / 5
    polar = torch.stack([r[:, None] * angle.cos(), r[:, None] * angle.sin()], dim=-1)
    total = 0.0
    for k, centre in enumerate(density.centres):
        x = ((polar + centre).flatten(0, 1) - density.shift) / density.scale
        p = density.log_prob(x).exp() / density.scale**2 * (density.mode(x) == k)
        cell = (r * 0.02 / 5 * 2 * math.pi / 2000)[:, None].expand(-1, 2000).flatten()
        total += float(p @ cell)
    # The indicator's edge at the crossings is resolved to a cell only, which costs 6e-5.
    assert total == pytest.approx(1, abs=3e-4)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("olympic_rings", 0.1),
        ("four_rings", 0.1),
        ("two_spirals", 0.04),
        ("eight_gaussians", 0.05),
        ("two_moons", 0.05),
        ("fractal_tree", 0.05),
    ],
)
def test_a_smooth_density_integrates_to_one_on_a_grid(name, width):
    density = toy.load(name, width=width)
    # At most 0.8 widths between nodes: for Gaussians the midpoint rule then errs by 1e-12.
    # The fractal tree reaches from about -3 to 3.
    count = math.ceil(8 * density.scale / (0.8 * width))
    x, cell = grid(-4.0, 4.0, count)
    # Rings have a pole of no weight at each centre, hence not 1e-9.
    assert density.log_prob(x).exp().sum().item() * cell == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", BOXES)
def test_boxes_integrate_to_one_on_a_grid(name, densities):
    density = densities[name]
    # The raw unit square in 81 · 4 cells a side: a whole number to each square of either set.
    raw, cell = grid(0.0, 1.0, 324)
    p = density.log_prob((raw - density.shift) / density.scale).exp()
    assert p.sum().item() * cell / density.scale**2 == pytest.approx(1, abs=1e-9)
    outside, _ = grid(1.001, 2.0, 20)
    assert (density.log_prob((outside - density.shift) / density.scale) == -math.inf).all()


# Samples, entropy and log density agree.


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_log_density_of_samples_is_minus_the_entropy(name, densities):
    log_p = densities[name].log_prob(densities[name].sample(20_000, seed=0).double())
    assert log_p.isfinite().all()
    error = log_p.std().item() / math.sqrt(20_000)
    # Four standard errors, and 1e-6 for boxes, where the density is constant.
    assert log_p.mean().item() == pytest.approx(-densities[name].entropy(), abs=4 * error + 1e-6)


def test_the_entropy_of_a_ring_has_its_closed_form():
    density = toy.load("ring", width=0.01)
    # E log r of r ~ N(1, w²) is -w²/2 - 3 w⁴/4 up to w⁶.
    radial = 0.5 * math.log(2 * math.pi * math.e * 0.01**2)
    truth = radial + math.log(2 * math.pi) - 0.01**2 / 2 - 0.75 * 0.01**4
    assert density.entropy() + 2 * math.log(density.scale) == pytest.approx(truth, abs=1e-10)


def test_four_rings_that_do_not_meet_have_the_entropy_of_one_plus_log_four():
    one, four = toy.load("ring"), toy.load("four_rings")
    raw_one = one.entropy() + 2 * math.log(one.scale)
    raw_four = four.entropy() + 2 * math.log(four.scale)
    assert raw_four == pytest.approx(raw_one + math.log(4), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "width"),
    [("olympic_rings", 0.1), ("eight_gaussians", 0.2), ("two_moons", 0.2), ("fractal_tree", 0.06)],
)
def test_the_entropy_where_parts_overlap_equals_a_plain_grid_sum(name, width):
    density = toy.load(name, width=width)
    x, cell = grid(-4.5, 4.5, math.ceil(9 * density.scale / (0.5 * width)))
    log_p = density.log_prob(x)
    # Two independent rules, both good to about 1e-5 here; the promise is 1e-3.
    reference = -(log_p.exp() * log_p).sum().item() * cell
    assert density.entropy() == pytest.approx(reference, abs=2e-4)


def test_the_entropy_of_boxes_is_the_log_of_their_area(densities):
    board, carpet = densities["checkerboard"], densities["sierpinski_carpet"]
    assert board.entropy() == pytest.approx(math.log(0.5 / board.scale**2))
    assert carpet.entropy() == pytest.approx(math.log((8 / 9) ** 4 / carpet.scale**2))


# Samples.


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_bits_and_another_seed_gives_others(name, densities):
    x = densities[name].sample(1000, seed=7)
    assert x.shape == (1000, 2) and x.dtype == torch.float32
    assert torch.equal(x, toy.load(name).sample(1000, seed=7))
    assert not torch.equal(x, densities[name].sample(1000, seed=8))


def test_without_a_seed_the_global_generator_decides_and_with_one_it_is_left_alone(densities):
    density = densities["olympic_rings"]
    torch.manual_seed(3)
    first, second = density.sample(10), density.sample(10)
    torch.manual_seed(3)
    assert torch.equal(first, density.sample(10)) and not torch.equal(first, second)
    state = torch.get_rng_state()
    density.sample(10, seed=0)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_mean_zero_and_unit_scale(name, densities):
    x = densities[name].sample(40_000, seed=1).double()
    # Four standard errors: std of a coordinate is at most 1.4, of its square at most 2.
    assert x.mean(0).abs().max().item() < 4 * 1.4 / 200
    assert x.var(0).mean().item() == pytest.approx(1, abs=4 * 2 / 200)


@pytest.mark.parametrize("name", ["olympic_rings", "two_moons", "eight_gaussians"])
def test_the_normalisation_is_exact_by_quadrature(name):
    density = toy.load(name, width=0.1)
    x, cell = grid(-4.0, 4.0, 300)
    p = density.log_prob(x).exp() * cell
    # Same midpoint rule as above; the tails beyond 4 weigh less than 1e-9.
    assert (p @ x).abs().max().item() < 1e-5
    assert (p @ x.square()).mean().item() == pytest.approx(1, abs=1e-5)


# Precision, tails and gradients.


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_keeps_the_dtype_and_is_finite_on_float32_samples(name, densities):
    x = densities[name].sample(5000, seed=2)
    single, double = densities[name].log_prob(x), densities[name].log_prob(x.double())
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    assert single.shape == (5000,) and single.isfinite().all()
    # Computed in float64 either way: only the last rounding differs.
    torch.testing.assert_close(single, double.float(), rtol=0, atol=0)


@pytest.mark.parametrize("name", BOXES)
def test_float32_samples_at_the_very_edge_of_a_square_are_inside(name, densities):
    density = densities[name]
    edge = torch.linspace(0, density.side, 7, dtype=torch.float64)
    raw = torch.cartesian_prod(edge, torch.tensor([0.0, density.side], dtype=torch.float64))
    x = ((raw - density.shift) / density.scale).float()
    for towards in (-math.inf, math.inf):
        moved = torch.nextafter(x, torch.full_like(x, towards))
        assert density.log_prob(moved).isfinite().all()


@pytest.mark.parametrize("name", SMOOTH)
def test_far_away_the_log_density_is_finite_and_falls_like_a_gaussian(name, densities):
    density = densities[name]
    x = torch.tensor([[1e3, 2e3], [-1e6, 5.0], [0.0, -1e6]], dtype=torch.float64)
    width = density.width / density.scale
    reference = -0.5 * (density.distance(x) / width).square()
    # What the exponent leaves out is a logarithm: nothing beside numbers of 1e8 and more.
    torch.testing.assert_close(density.log_prob(x), reference, rtol=1e-5, atol=0)


def test_log_normal_mass_is_right_in_the_middle_and_in_both_tails():
    low = torch.tensor([-1.0, 3.0, -4.0, 8.0, -9.0, -50.0], dtype=torch.float64)
    high = torch.tensor([2.0, 4.0, -3.0, 9.0, -8.0, 50.0], dtype=torch.float64)
    truth = [
        math.log(0.5 * (math.erf(2 / math.sqrt(2)) + math.erf(1 / math.sqrt(2)))),
        *[math.log(0.5 * (math.erfc(3 / math.sqrt(2)) - math.erfc(4 / math.sqrt(2))))] * 2,
        *[math.log(0.5 * (math.erfc(8 / math.sqrt(2)) - math.erfc(9 / math.sqrt(2))))] * 2,
        0.0,
    ]
    # erfc loses nothing in the right tail: the reference is good to float64 rounding.
    torch.testing.assert_close(
        log_normal_mass(low, high), torch.tensor(truth, dtype=torch.float64), rtol=1e-12, atol=1e-15
    )


def test_one_segment_is_a_gaussian_across_times_a_blurred_interval_along():
    line = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    density = Curves("segment", [line], [0], width=0.5)
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:, None]
    points = torch.tensor([[1.5, 2.0], [3.5, 4.0], [-1.0, 0.5]], dtype=torch.float64)
    # The definition: the mean over the segment of a 2-D Gaussian, by 20 000 trapezia (error 1e-9).
    square = (points[:, None] - t * line[1]).square().sum(2)
    gaussian = (-0.5 * square / 0.25).exp() / (2 * math.pi * 0.25)
    reference = torch.trapezoid(gaussian, t[:, 0], dim=1).log()
    x = (points - density.shift) / density.scale
    log_p = density.log_prob(x) - 2 * math.log(density.scale)
    torch.testing.assert_close(log_p, reference, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", SMOOTH)
def test_autograd_gives_the_score_that_finite_differences_give(name, densities):
    density = densities[name]
    x = density.sample(50, seed=4).double().requires_grad_()
    (score,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    step = 1e-4 * density.width
    with torch.no_grad():
        for axis in (0, 1):
            shift = torch.zeros(2, dtype=torch.float64)
            shift[axis] = step
            slope = (density.log_prob(x + shift) - density.log_prob(x - shift)) / (2 * step)
            # Scores are of size 1/width; central differences of this step err by about 1e-7 of it.
            torch.testing.assert_close(score[:, axis], slope, rtol=0, atol=1e-5 / density.width)


def test_the_score_of_a_ring_has_its_closed_form():
    density = toy.load("ring", width=0.01)
    x = density.sample(100, seed=0).double().requires_grad_()
    (score,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    raw = x.detach() * density.scale
    r = torch.linalg.vector_norm(raw, dim=1, keepdim=True)
    reference = density.scale * raw / r * (-(r - 1) / 0.01**2 - 1 / r)
    torch.testing.assert_close(score, reference, rtol=1e-9, atol=1e-9)


def test_the_score_inside_a_square_is_zero(densities):
    x = densities["checkerboard"].sample(10, seed=0).requires_grad_()
    (score,) = torch.autograd.grad(densities["checkerboard"].log_prob(x).sum(), x)
    assert torch.equal(score, torch.zeros(10, 2))


# Modes.


def normalised(density, raw):
    return (torch.tensor(raw, dtype=torch.float64) - density.shift) / density.scale


def test_the_mode_of_a_ring_point_is_the_ring_it_lies_on(densities):
    for name in ("four_rings", "olympic_rings"):
        density = densities[name]
        top = density.centres + torch.tensor([0.0, 1.0])
        mode = density.mode((top - density.shift) / density.scale)
        assert mode.tolist() == list(range(density.n_modes)) and mode.dtype == torch.int64


def test_each_lower_olympic_ring_crosses_its_two_upper_neighbours_and_four_rings_never_meet():
    def crossings(name):
        apart = torch.pdist(toy.load(name).centres)
        return int((apart < 2).sum())

    assert crossings("olympic_rings") == 4 and crossings("four_rings") == 0


def test_modes_name_squares_gaussians_arms_and_limbs(densities):
    board = densities["checkerboard"]
    corner_squares = normalised(board, [[0.1, 0.1], [0.1, 0.6], [0.9, 0.9]])
    assert board.mode(corner_squares).tolist() == [0, 1, 7]
    eight = densities["eight_gaussians"]
    assert eight.mode(normalised(eight, [[1.0, 0.1], [0.0, 1.1], [-1.0, 0.0]])).tolist() == [
        0,
        2,
        4,
    ]
    spirals = densities["two_spirals"]
    assert spirals.mode(normalised(spirals, [[-1.0, 0.0], [1.0, 0.0]])).tolist() == [0, 1]
    moons = densities["two_moons"]
    assert moons.mode(normalised(moons, [[0.0, 1.0], [1.0, -0.5]])).tolist() == [0, 1]
    carpet = densities["sierpinski_carpet"]
    assert carpet.mode(normalised(carpet, [[0.01, 0.01], [0.99, 0.99]])).tolist() == [0, 7]
    tree = densities["fractal_tree"]
    assert tree.mode(normalised(tree, [[0.0, 0.5], [-2.0, 1.5], [2.0, 1.5]])).tolist() == [0, 1, 4]


@pytest.mark.parametrize("name", NAMES)
def test_samples_meet_every_mode_and_mirror_images_equally_often(name, densities):
    density = densities[name]
    count = density.mode(density.sample(20_000, seed=5)).bincount(minlength=density.n_modes)
    assert len(count) == density.n_modes and (count > 0).all()
    equal = count[1:] if name == "fractal_tree" else count  # the trunk is shorter than a limb
    share = equal.sum().item() / len(equal)
    # Four standard deviations of a binomial count, and 1 % for crossings shared unevenly.
    assert (equal - share).abs().max().item() <= 4 * math.sqrt(share) + 0.01 * 20_000


# Leak.


@pytest.mark.parametrize("name", RINGS)
def test_a_ring_leaks_beyond_five_widths_on_both_sides_and_not_before(name, densities):
    density = densities[name]
    on_axis = density.centres[0] + torch.tensor([0.0, 1.0], dtype=torch.float64)
    for side in (-1.0, 1.0):
        offset = torch.tensor([0.0, side * density.width], dtype=torch.float64)
        x = torch.stack([on_axis, on_axis + 4.99 * offset, on_axis + 5.01 * offset])
        leaked = density.leaked((x - density.shift) / density.scale)
        assert leaked.tolist() == [False, False, True] and leaked.dtype == torch.bool


def test_curves_and_gaussians_leak_beyond_five_widths(densities):
    tree, eight = densities["fractal_tree"], densities["eight_gaussians"]
    trunk = normalised(tree, [[0.0499, 0.5], [0.0501, 0.5], [0.0, -0.0499], [0.0, -0.0501]])
    assert tree.leaked(trunk).tolist() == [False, True, False, True]
    assert eight.leaked(normalised(eight, [[1.249, 0.0], [1.251, 0.0]])).tolist() == [False, True]


def test_squares_leak_beyond_one_percent_of_their_side(densities):
    board, carpet = densities["checkerboard"], densities["sierpinski_carpet"]
    side = 1 / 4
    beside = normalised(board, [[0.1, -0.009 * side], [0.1, -0.011 * side], [0.1, 1.5 * side]])
    assert board.leaked(beside).tolist() == [False, True, True]
    side = 1 / 81
    hole = normalised(
        carpet, [[1 / 3 + 0.009 * side, 0.5], [1 / 3 + 0.011 * side, 0.5], [0.5, 0.5]]
    )
    assert carpet.leaked(hole).tolist() == [False, True, True]


@pytest.mark.parametrize("name", NAMES)
def test_own_samples_do_not_leak_and_nan_or_far_points_do(name, densities):
    density = densities[name]
    # Beyond 5 widths lie 6e-7 of a 1-D Gaussian and 4e-6 of a 2-D one.
    assert not density.leaked(density.sample(10_000, seed=6)).any()
    bad = torch.tensor([[math.nan, 0.0], [0.0, math.nan], [math.inf, 0.0], [9.0, 9.0]])
    assert density.leaked(bad).all()
    assert density.mode(bad).max() < density.n_modes and density.mode(bad).min() >= 0


def test_distance_is_in_normalised_units(densities):
    ring, board = densities["ring"], densities["checkerboard"]
    x = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    expected = torch.tensor([2.0 - 1 / ring.scale, 1 / ring.scale])
    torch.testing.assert_close(ring.distance(x), expected)
    # 3 and 4 sides beyond the corner (0, 0): 5 sides, by Euclid.
    away = normalised(board, [[-0.75, -1.0], [0.1, 0.1]])
    assert board.distance(away).tolist() == pytest.approx([1.25 / board.scale, 0.0])


# Arguments.


def test_an_unknown_name_names_the_nearest_known_one_and_all_others():
    with pytest.raises(ValueError, match="did you mean 'olympic_rings'") as caught:
        toy.load("olympic_ring")
    assert all(name in str(caught.value) for name in NAMES)


@pytest.mark.parametrize("width", [-0.1, 0, 0.0, math.nan, -math.inf, math.inf])
def test_a_width_that_is_not_positive_and_finite_is_refused(width):
    with pytest.raises(ValueError, match=f"width must be positive.*, got {width}"):
        toy.load("ring", width=width)


def test_a_width_that_is_no_number_or_out_of_reach_is_refused():
    with pytest.raises(ValueError, match="width must be a number, got 'thin'"):
        toy.load("ring", width="thin")
    with pytest.raises(ValueError, match="width must be at least 0.0001"):
        toy.load("two_spirals", width=1e-6)
    with pytest.raises(ValueError, match="at most 0.2, got 0.5"):
        toy.load("ring", width=0.5)


def test_a_set_without_width_says_so_and_so_does_an_unknown_argument():
    with pytest.raises(ValueError, match="checkerboard has no width: it takes no arguments"):
        toy.load("checkerboard", width=0.1)
    with pytest.raises(ValueError, match="ring has no colour: it takes width"):
        toy.load("ring", colour=1)


@pytest.mark.parametrize("method", ["log_prob", "mode", "leaked", "distance"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2), r"x must have shape \(n, 2\) with n >= 1, got \(2,\)"),
        (torch.zeros(4, 3), r"got \(4, 3\)"),
        (torch.zeros(0, 2), r"got \(0, 2\)"),
        (torch.zeros(4, 2, dtype=torch.int64), "x must be floating point.*got torch.int64"),
        ([[0.0, 0.0]], "x must be a torch.Tensor.*got list"),
    ],
)
def test_points_of_the_wrong_kind_are_refused(method, x, message, densities):
    with pytest.raises(ValueError, match=message):
        getattr(densities["ring"], method)(x)


@pytest.mark.parametrize("n", [0, -3, 2.5, True])
def test_a_sample_size_that_is_no_positive_whole_number_is_refused(n, densities):
    with pytest.raises(ValueError, match="n must be a whole number, 1 or more"):
        densities["ring"].sample(n)


def test_a_density_shows_how_to_load_it(densities):
    assert repr(densities["ring"]) == 'toy.load("ring", width=0.01)'
    assert repr(densities["checkerboard"]) == 'toy.load("checkerboard")'
