"""The ODE solver with its divergence, against matrix exponentials and autograd's Jacobian."""

import math

import pytest
import torch
from torch import nn

from diffflow_edu.nets import MLP
from diffflow_edu.processes.ode import Solver, SolverError, divergence, draw_probes, integrate

MATRIX = torch.tensor([[-0.6, 1.1], [-0.4, 0.3]], dtype=torch.float64)
TIGHT = Solver(rtol=1e-9, atol=1e-9)


def normals(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def linear(x, t):
    return x @ MATRIX.T


def growing(x, t):
    """dx/dt = cos(t) x, whose solution is x exp(sin t)."""
    return torch.cos(t) * x


def net(dim=3):
    torch.manual_seed(0)
    return MLP(dim, hidden=16, frequencies=2).double()


class NoVmap(torch.autograd.Function):
    """x², with a backward pass that vmap cannot batch."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x * torch.from_numpy(g.detach().numpy())


# The divergence ---------------------------------------------------------------------------------


def test_the_exact_trace_is_that_of_autograds_jacobian():
    field, x, t = net(), normals(4, 3), torch.tensor(0.3, dtype=torch.float64)
    f, trace, square = divergence(field, x, t)
    assert torch.equal(f, field(x, t).detach())
    trace, square = trace.detach(), square.detach()
    for n in range(len(x)):
        row = torch.autograd.functional.jacobian(lambda y: field(y[None], t)[0], x[n])  # noqa: B023
        # Two orders of the same float64 sums.
        assert float(trace[n]) == pytest.approx(row.trace().item(), abs=1e-12)
        assert float(square[n]) == pytest.approx(row.square().sum().item(), rel=1e-12)


def test_the_exact_trace_of_images_runs_over_every_pixel():
    x = normals(3, 2, 4, 4)
    _, trace, _ = divergence(lambda x, t: x.pow(3), x, torch.tensor(0.0))
    assert torch.allclose(trace, 3 * x.square().flatten(1).sum(1), rtol=1e-12)


@pytest.mark.parametrize("recording", [True, False])
def test_a_field_that_vmap_cannot_batch_falls_back_to_one_row_at_a_time(recording):
    x = normals(5, 3)
    with torch.set_grad_enabled(recording):
        _, trace, _ = divergence(lambda x, t: NoVmap.apply(x), x, torch.tensor(0.0))
    assert torch.allclose(trace, 2 * x.sum(1), rtol=1e-12)


def test_a_field_that_does_not_see_x_has_no_divergence():
    shift = nn.Parameter(torch.ones(3, dtype=torch.float64))
    for field in (lambda x, t: torch.ones_like(x), lambda x, t: shift.expand_as(x)):
        _, trace, square = divergence(field, normals(4, 3), torch.tensor(0.0))
        assert torch.equal(trace, torch.zeros(4)) and torch.equal(square, torch.zeros(4))


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_hutchinsons_estimates_are_unbiased(kind):
    field, x, t = net(), normals(2, 3), torch.tensor(0.3, dtype=torch.float64)
    probes = draw_probes(x, 20_000, kind, torch.Generator().manual_seed(1))
    _, exact, exact_square = divergence(field, x, t)
    estimates = [divergence(field, x, t, probes[i : i + 1])[1:] for i in range(500)]
    _, mean, mean_square = divergence(field, x, t, probes)
    for got, wanted, one in ((mean, exact, 0), (mean_square, exact_square, 1)):
        spread = torch.stack([e[one] for e in estimates]).std(0)
        assert (spread > 0).all()  # they do fluctuate, and their mean does not, much
        assert ((got - wanted).abs() < 5 * spread / math.sqrt(20_000)).all()  # five std errors


def test_signs_give_less_variance_than_normal_numbers():
    x, t = normals(1, 2), torch.tensor(0.0)
    symmetric = 0.5 * (MATRIX + MATRIX.T)
    off = 2 * (symmetric.square().sum() - symmetric.diag().square().sum())
    variances = {}
    for kind in ("rademacher", "gaussian"):
        probes = draw_probes(x.expand(50_000, 2), 1, kind, torch.Generator().manual_seed(0))
        variances[kind] = divergence(linear, x.expand(50_000, 2), t, probes)[1].var()
    # As the docstring says; a variance of 50 000 numbers is good to a few per cent.
    assert variances["rademacher"].item() == pytest.approx(off.item(), rel=0.05)
    expected = off + 2 * symmetric.diag().square().sum()
    assert variances["gaussian"].item() == pytest.approx(expected.item(), rel=0.05)


# The solution -----------------------------------------------------------------------------------


def test_a_linear_field_gives_the_matrix_exponential_at_every_time():
    x, times = normals(5, 2), torch.tensor([0.0, 0.2, 0.9, 1.5], dtype=torch.float64)
    solution = integrate(linear, x, times, TIGHT)
    for k, t in enumerate(times):
        assert torch.allclose(solution.states[k], x @ torch.matrix_exp(t * MATRIX).T, atol=1e-7)
        assert torch.allclose(solution.log_det[k], t * MATRIX.trace(), atol=1e-7)


def test_time_runs_backwards_too():
    x, times = normals(5, 2), torch.tensor([1.5, 0.4, 0.0], dtype=torch.float64)
    solution = integrate(growing, x, times, TIGHT)
    assert torch.allclose(solution.states[-1], x * math.exp(-math.sin(1.5)), atol=1e-7)
    assert solution.log_det[-1, 0] == pytest.approx(-2 * math.sin(1.5), abs=1e-7)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_a_fixed_step_solver_converges_at_its_order(method, order):
    x, times = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0.0, 1.0])
    errors = [
        abs(integrate(growing, x, times, Solver(method, steps=n)).states[-1].item() - truth)
        for n, truth in ((10, math.exp(math.sin(1))), (20, math.exp(math.sin(1))))
    ]
    # Next order's term is a tenth or so at steps of 1/10.
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.35)


def test_fixed_steps_meet_the_times_that_were_asked_for():
    x = torch.ones(1, 1, dtype=torch.float64)
    times = torch.tensor([1.0, 0.77, 0.31, 0.0], dtype=torch.float64)
    states = integrate(growing, x, times, Solver("rk4", steps=20)).states.flatten()
    exact = (times.sin() - math.sin(1)).exp()
    assert torch.allclose(states, exact, atol=1e-7)  # interpolation would err by 1e-4


def test_evaluations_are_those_that_were_made():
    calls = []

    def counted(x, t):
        calls.append(float(t))
        return growing(x, t)

    x, times = torch.ones(3, 2), torch.tensor([0.0, 1.0])
    assert integrate(counted, x, times, Solver("rk4", steps=7)).evaluations == len(calls) == 28
    calls.clear()
    loose = integrate(counted, x, times, Solver(rtol=1e-3, atol=1e-3)).evaluations
    assert loose == len(calls)
    assert loose < integrate(counted, x, times, Solver(rtol=1e-6, atol=1e-6)).evaluations


@pytest.mark.parametrize("direction", [1, -1])
def test_the_regularisers_of_a_linear_field_are_their_closed_forms(direction):
    x = normals(4, 2)
    times = (
        torch.tensor([0.0, 1.2], dtype=torch.float64)[::direction]
        if direction > 0
        else (torch.tensor([1.2, 0.0], dtype=torch.float64))
    )
    solution = integrate(lambda x, t: 0.7 * x, x, times, TIGHT, penalties=True)
    rate = direction * 1.4
    kinetic = 0.49 * x.square().sum(1) * (math.exp(1.2 * rate) - 1) / rate
    assert torch.allclose(solution.kinetic, kinetic, atol=1e-7)
    assert torch.allclose(solution.jacobian, torch.full((4,), 2 * 0.49 * 1.2).double(), atol=1e-7)


@pytest.mark.parametrize("ends", [[0.0, 1.0], [1.0, 0.6, 0.0]])
def test_a_solver_told_of_the_kinks_ends_a_step_there_and_is_as_exact_as_elsewhere(ends):
    def bent(x, t):  # its integral over [0, 1] is (.3² + .7²)/2
        return (t - 0.3).abs() + 0 * x

    x, times = torch.zeros(2, 1, dtype=torch.float64), torch.tensor(ends, dtype=torch.float64)
    exact = 0.29 if ends[-1] == 1 else -0.29
    solver, kinks = Solver(rtol=1e-3, atol=1e-3), torch.tensor([0.3, 7.0])
    told = integrate(bent, x, times, solver, kinks=kinks).states[-1, 0, 0]
    untold = integrate(bent, x, times, solver).states[-1, 0, 0]
    # Linear on both sides, and the kink is given in float32.
    assert abs(float(told) - exact) < 1e-7 and abs(float(untold) - exact) > 1e-5


def test_the_adjoint_is_told_of_the_kinks_too():
    rate = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def bent(x, t):
        return rate * (t - 0.3).abs() * x

    x, times = torch.ones(1, 1, dtype=torch.float64), torch.tensor([0.0, 1.0]).double()
    options = {"gradient": "adjoint", "kinks": torch.tensor([0.3]).double()}
    end = integrate(bent, x, times, TIGHT, parameters=[rate], **options).states[-1]
    end.sum().backward()
    assert rate.grad.item() == pytest.approx(0.29 * math.exp(0.29), abs=1e-8)


def test_the_adjoint_finds_the_parameters_of_a_module_and_of_a_function_itself():
    torch.manual_seed(0)
    module = MLP(3, hidden=8, depth=1, frequencies=0, horizon=20.0).double()
    times, solver = torch.tensor([0.0, 1.0], dtype=torch.float64), Solver("rk4", steps=20)
    gradients = []
    for field in (module, lambda x, t: module(x, t)):
        for options in ({"gradient": "direct"}, {"gradient": "adjoint"}):
            module.zero_grad()
            integrate(field, normals(3, 3), times, solver, **options).states[-1].sum().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
    assert gradients[0].abs().max() > 0.1
    for other in gradients[1:]:
        # Both solves err by the fourth power of a step of .05.
        assert torch.allclose(other, gradients[0], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_of_the_particles_is_kept(dtype):
    def field(x, t):
        assert t.ndim == 0 and t.dtype == x.dtype == dtype
        return growing(x, t)

    solution = integrate(field, normals(3, 2, dtype=dtype), torch.tensor([0.0, 1.0]))
    assert {solution.states.dtype, solution.log_det.dtype, solution.times.dtype} == {dtype}


@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_the_field_is_never_asked_outside_the_times(gradient):
    rate, asked = nn.Parameter(torch.tensor(0.5, dtype=torch.float64)), []

    def field(x, t):
        asked.append(t.item())
        return rate * growing(x, t)

    for ends in ([0.0, 1.0], [1.0, 0.3, 0.0]):
        times = torch.tensor(ends, dtype=torch.float64)
        end = integrate(field, normals(3, 2), times, gradient=gradient, parameters=[rate])
        end.states[-1].sum().backward()
    assert 0 <= min(asked) < 1e-9 and 1 - 1e-9 < max(asked) <= 1


# Giving up --------------------------------------------------------------------------------------


def test_a_tolerance_out_of_reach_is_named_with_the_time_the_step_and_a_way_out():
    def rough(x, t):
        return torch.sign(torch.sin(1e4 * t)) * torch.ones_like(x)

    solver = Solver(rtol=1e-6, atol=1e-6, max_evaluations=300)
    with pytest.raises(SolverError) as error:
        integrate(rough, torch.ones(2, 2), torch.tensor([0.0, 1.0]), solver)
    for word in ("rtol=1e-06", "atol=1e-06", "at t = 0.", "step of", "evaluations", "float64",
                 "max_evaluations (now 300)", "Solver('rk4', steps=100)"):  # fmt: skip
        assert word in str(error.value)


def test_a_field_that_blows_up_stops_with_the_time_it_happened():
    with pytest.raises(SolverError, match=r"at t = (0\.99|1)"):  # x = 1/(1 − t)
        integrate(lambda x, t: x.square(), torch.ones(2, 1).double(), torch.tensor([0.0, 2.0]))


def test_a_field_that_is_not_finite_is_an_error_of_an_adaptive_solver():
    with pytest.raises(SolverError, match="NaN|step vanished"):
        integrate(lambda x, t: x / 0 - x / 0, torch.ones(2, 1), torch.tensor([0.0, 2.0]))


def test_the_adjoints_own_solve_gives_up_with_the_same_message():
    weight = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    rough = {"on": False}

    def field(x, t):
        kink = torch.sign(torch.sin(1e4 * t)) if rough["on"] else 0.0
        return weight * x + kink

    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    solver = Solver(max_evaluations=300)
    x = torch.ones(2, 1, dtype=torch.float64)
    end = integrate(field, x, times, solver, gradient="adjoint", parameters=[weight])
    rough["on"] = True
    with pytest.raises(SolverError, match="cannot reach its tolerance"):
        end.states[-1].sum().backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "leapfrog"}, "method must be one of dopri5"),
        ({"rtol": 0.0}, "rtol must be positive and finite, got 0.0"),
        ({"atol": math.nan}, "atol must be positive and finite, got nan"),
        ({"method": "rk4"}, "steps must be a whole number, 1 or more, got None"),
        ({"method": "rk4", "steps": 2.5}, "steps must be a whole number, 1 or more, got 2.5"),
        ({"steps": 8}, "steps belongs to a fixed-step method"),
        ({"max_evaluations": 0}, "max_evaluations must be a whole number"),
    ],
)
def test_a_solver_says_what_it_cannot_use(arguments, message):
    with pytest.raises(ValueError, match=message):
        Solver(**arguments)


@pytest.mark.parametrize(
    ("times", "options", "message"),
    [
        ([0.0], {}, "times must be two or more, rising or falling"),
        ([0.0, 1.0, 0.5], {}, "times must be two or more, rising or falling"),
        ([0.0, 1.0], {"solver": "rk4"}, "solver must be a Solver, got 'rk4'"),
        ([0.0, 1.0], {"gradient": "none"}, "gradient must be 'direct' or 'adjoint'"),
    ],
)
def test_integrate_says_what_it_cannot_use(times, options, message):
    with pytest.raises(ValueError, match=message):
        integrate(linear, normals(2, 2), torch.tensor(times), **options)


def test_probes_say_what_they_cannot_be():
    with pytest.raises(ValueError, match="probes must be a whole number, 1 or more, got 0"):
        draw_probes(torch.ones(2, 2), 0)
    with pytest.raises(ValueError, match="probe must be 'rademacher' or 'gaussian', got 'uniform'"):
        draw_probes(torch.ones(2, 2), 1, "uniform")


def stiff_in_places(x, t):
    """A field whose rate is 1 for most particles, and 40 in a narrow ring."""
    rate = 1 + 40 * torch.exp(-50 * (x.norm(dim=1, keepdim=True) - 1).square())
    return torch.cos(6 * t) * rate * x.flip(1) * torch.tensor([-1.0, 1.0], dtype=x.dtype)


@pytest.mark.parametrize("with_divergence", [False, True])
def test_by_the_worst_particle_one_is_right_to_the_tolerance_in_any_batch(with_divergence):
    few, many = normals(1, 2), 3 + normals(400, 2)
    few = few / few.norm()  # in the ring, all others far from it
    times = torch.tensor([0.0, 1.0])

    def end(points, solver):
        return integrate(stiff_in_places, points, times, solver, with_divergence).states[-1, :1]

    truth, both = end(few, TIGHT), torch.cat([few, many])
    alone, rms, worst = (
        float((end(points, Solver(rtol=1e-4, atol=1e-4, error=how)) - truth).abs().max())
        for points, how in ((few, "rms"), (both, "rms"), (both, "max"))
    )
    # The ring's particle alone errs by a few tolerances; one of 401, its error counts a twentieth.
    assert worst <= 2 * alone
    assert worst < 0.3 * rms


def test_the_adjoint_follows_the_worst_particle_too():
    field = net().double()
    x = normals(2, 3).double()
    ends = [
        integrate(field, x, torch.tensor([0.0, 0.2]), Solver(rtol=1e-7, atol=1e-7, error=how),
                  gradient="adjoint").states[-1].square().sum()
        for how in ("rms", "max")
    ]  # fmt: skip
    grads = [torch.autograd.grad(end, list(field.parameters()), allow_unused=True) for end in ends]
    for one, other in zip(*grads, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert torch.allclose(one, other, atol=1e-6)


def test_an_error_that_is_neither_is_refused():
    with pytest.raises(ValueError, match="error must be 'rms' or 'max', got 'mean'"):
        Solver(error="mean")
    assert repr(Solver(error="max")) == "Solver(dopri5, rtol=1e-05, atol=1e-05, error='max')"
