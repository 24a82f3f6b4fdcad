"""What cannot be used is refused with a ValueError that names it, before any work is done."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import diffflow_edu
from diffflow_edu import CNF, DDPM, DiffFlow, Schedule, Trajectory, images, play, toy, zoo
from diffflow_edu.nets import NoisePrediction
from diffflow_edu.processes.ode import integrate

NAN, INF = float("nan"), float("inf")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return DiffFlow.mlp(Schedule.log_snr(steps=3), hidden=8)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0, 0.5, 0.5, 1.0], "times must rise strictly, got 0.5 then 0.5 at step 1"),
        ([0.0, 0.5, 0.2], "times must rise strictly, got 0.5 then 0.2 at step 1"),
        ([0.1, 0.5], "times must start at 0 (the data side), got 0.1"),
        ([0.0, NAN, 1.0], "times must be finite, got nan"),
        ([0.0, 1.0, INF], "times must be finite, got inf"),
        ([0.0], "times must have shape (N + 1,) with N ≥ 1, got (1,)"),
        ([[0.0, 1.0]], "times must have shape (N + 1,) with N ≥ 1, got (1, 2)"),
        ("now", "times must be numbers, got 'now'"),
    ],
)
def test_times_that_cannot_be_a_grid(times, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Schedule.euler(times, g=1.0)


@pytest.mark.parametrize(
    ("g", "message"),
    [
        (0.0, "g must be positive and finite, got 0"),
        (-1.0, "g must be positive and finite, got -1"),
        (NAN, "g must be positive and finite, got nan"),
        (torch.tensor([1.0, INF, 1.0]), "g must be positive and finite, got inf"),
        (torch.tensor([1.0, 1.0, 0.0]), "g must be positive and finite, got 0"),
        (
            torch.ones(2),
            "g must be a number or have the shape of times (3,), got (2,)",
        ),
        ("big", "g must be numbers, got 'big'"),
    ],
)
def test_g_that_is_no_diffusion_coefficient(g, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Schedule.euler(torch.tensor([0.0, 0.5, 1.0]), g=g)


@pytest.mark.parametrize("make", ["polynomial", "log_snr", "linear_beta", "geometric"])
@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "ten"])
def test_steps_below_one_or_not_whole(make, steps):
    message = f"steps must be a whole number, 1 or more, got {steps!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(Schedule, make)(steps=steps)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        ("polynomial", {"T": 0.0}, "T must be positive and finite, got 0.0"),
        ("polynomial", {"beta": -1.0}, "beta must be positive and finite, got -1.0"),
        ("polynomial", {"g": 0.0}, "g must be positive and finite, got 0.0"),
        ("log_snr", {"r_min": 0.0}, "r_min must be positive and finite, got 0.0"),
        ("log_snr", {"r_max": INF}, "r_max must be positive and finite, got inf"),
        ("log_snr", {"r_min": 2.0, "r_max": 1.0}, "r_min must be below r_max"),
        ("geometric", {"s_min": NAN}, "s_min must be positive and finite, got nan"),
        ("geometric", {"s_max": "wide"}, "s_max must be positive and finite, got 'wide'"),
    ],
)
def test_a_schedule_of_impossible_numbers(make, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(Schedule, make)(steps=3, **arguments)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((4, 2)), "x must be a torch.Tensor of shape (B, *shape), got ndarray"),
        (torch.zeros(4, 2, dtype=torch.int64), "x must be float32 or float64, got torch.int64"),
        (torch.zeros(4, 2).bool(), "x must be float32 or float64, got torch.bool"),
        (torch.zeros(4, 2).half(), "x must be float32 or float64, got torch.float16"),
        (
            torch.zeros(4, 2).double(),
            "x must be torch.float32 like the model's networks, got torch.float64; convert it",
        ),
        (torch.zeros(2), "x must have shape (B, *shape) with B ≥ 1, got (2,)"),
        (torch.zeros(0, 2), "x must have shape (B, *shape) with B ≥ 1, got (0, 2)"),
        (torch.zeros(4, 3), "x must have 2 numbers a particle, got shape"),
    ],
)
def test_x_of_the_wrong_kind_shape_or_dtype(model, x, message):
    for call in (
        model.bound,
        lambda x: model.bound(x, gradient="autograd"),
        model.loss,
        model.encode,
        DDPM.of(model).loss,
        model.calibrate,
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            call(x)


@pytest.mark.parametrize(
    "noise",
    [
        torch.zeros(2, 4, 2),
        torch.zeros(3, 5, 2),
        torch.zeros(3, 4, 2).double(),
        np.zeros((3, 4, 2)),
    ],
    ids=["steps", "particles", "dtype", "array"],
)
def test_a_noise_that_does_not_fit_x(model, noise):
    message = r"noise must be a tensor \(N, B, \*shape\) = \(3, 4, 2\) of torch.float32, got"
    for call in (model.bound, model.loss, DDPM.of(model).loss):
        with pytest.raises(ValueError, match=message):
            call(torch.zeros(4, 2), noise)


def test_a_misspelt_gradient_draws_nothing_first(model):
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="gradient must be 'adjoint' or 'autograd', got 'ajoint'"):
        model.bound(torch.zeros(4, 2), gradient="ajoint")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("n", [0, -3, 2.0, True, None])
def test_a_number_of_samples_below_one_or_not_whole(model, n):
    with pytest.raises(ValueError, match=f"n must be a whole number, 1 or more, got {n!r}"):
        model.sample(n)


@pytest.mark.parametrize("lam", [-0.1, NAN, INF, "a"])
def test_a_negative_lambda(model, lam):
    with pytest.raises(ValueError, match=f"lam must be a finite number, 0 or more, got {lam!r}"):
        model.sample(3, lam=lam)


def test_samples_of_another_shape_than_the_network_s(model):
    with pytest.raises(ValueError, match=r"x must have 2 numbers a particle, got shape \(4, 3\)"):
        model.sample(4, shape=(3,))


def test_parts_that_do_not_make_a_model():
    schedule = Schedule.log_snr(steps=3)
    with pytest.raises(ValueError, match=r"drift must be callable as drift\(x, t\), got None"):
        DiffFlow(None, torch.tanh, schedule)
    with pytest.raises(ValueError, match=r"score must be callable as score\(x, t\), got 3"):
        DDPM(3, schedule)
    with pytest.raises(ValueError, match="schedule must be a Schedule, got 30"):
        DiffFlow(torch.tanh, torch.tanh, 30)
    with pytest.raises(ValueError, match="schedule must be a Schedule, got 30"):
        DDPM(torch.tanh, 30)
    with pytest.raises(ValueError, match=r"'noise', 'x0', 'v' or 'score', got 'velocity'"):
        DDPM(torch.tanh, schedule, prediction="velocity")


def test_a_trajectory_whose_times_and_states_disagree():
    with pytest.raises(ValueError, match=r"got times \(2,\) and states \(3, 5, 2\)"):
        Trajectory(torch.zeros(2), torch.zeros(3, 5, 2))


def test_an_unknown_density_and_a_width_that_is_not_positive():
    with pytest.raises(ValueError, match="olympic_rings"):
        toy.load("olympic_ring")
    for width in (0.0, -0.1, NAN):
        with pytest.raises(ValueError, match="width must be"):
            toy.load("ring", width=width)


def test_a_predicted_noise_needs_a_schedule():
    with pytest.raises(ValueError, match="noise_process must be a NoiseProcess, got 3"):
        NoisePrediction(torch.tanh, 3)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (lambda x, t: x[:, :1], r"got \(4, 1\)"),
        (lambda x, t: x[None], r"got \(1, 4, 2\)"),
        (lambda x, t: x.sum(), r"got \(\)"),
        (lambda x, t: None, "got NoneType"),
        (lambda x, t: 0.0, "got float"),
    ],
)
@pytest.mark.parametrize("name", ["drift", "score"])
def test_a_field_that_does_not_return_a_tensor_like_x(name, value, got):
    fields = {"drift": lambda x, t: -x, "score": lambda x, t: -x} | {name: value}
    model = DiffFlow(schedule=Schedule.log_snr(5), **fields)
    message = rf"{name} must return a tensor like x, \(4, 2\), {got}"
    for gradient in ("adjoint", "autograd"):
        with pytest.raises(ValueError, match=message):
            model.bound(torch.randn(4, 2), gradient=gradient)
    with pytest.raises(ValueError, match=message):
        model.sample(4)


@pytest.mark.parametrize(("name", "near"), [("RING", "ring"), ("CheckerBoard", "checkerboard")])
def test_capitals_do_not_hide_the_nearest_density(name, near):
    with pytest.raises(ValueError, match=f"did you mean '{near}'"):
        toy.load(name)


def test_a_schedule_that_is_none_of_ours():
    for kind in (DiffFlow, DDPM):
        with pytest.raises(ValueError, match="schedule must be a Schedule, got 5"):
            kind.mlp(5)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1.0, 0.5, 0.0], "got 1 then 0.5 at step 0"),
        ([0.0, 0.5, 0.25], "got 0.5 then 0.25 at step 1"),
        ([0.0, NAN, 1.0], "times must be finite, got nan"),
        ([0.0, 1.0, INF], "times must be finite, got inf"),
    ],
)
def test_a_trajectory_whose_times_fall_or_are_not_finite_is_refused(times, message):
    with pytest.raises(ValueError, match=message):
        Trajectory(torch.tensor(times), torch.zeros(3, 5, 2))
    even = torch.tensor([0.0, 0.5, 0.5])  # two times of a fine grid that float32 cannot tell apart
    assert len(Trajectory(even, torch.zeros(3, 5, 2))) == 3


@pytest.mark.parametrize(
    "layer", [torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(2), torch.nn.AlphaDropout(0.1)], ids=repr
)
def test_a_network_that_answers_twice_differently_is_refused_by_the_adjoint(layer):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Sequential(torch.nn.Linear(2, 2), layer)

        def forward(self, x, t):
            return self.inner(x)

    model = DiffFlow(lambda x, t: -x, Net(), Schedule.log_snr(3))
    x = torch.randn(8, 2)
    for use in (model.loss, model.bound):
        with pytest.raises(
            ValueError, match=rf"score.inner.1 is a {type(layer).__name__} in train"
        ):
            use(x)
    model.bound(x, gradient="autograd").mean().backward()
    with torch.no_grad():
        assert model.loss(x).isfinite()
    assert model.eval().loss(x).isfinite()


# Messages -----------------------------------------------------------------------------------------


def raw_values(tree):
    """What messages of errors print as it came, (line, code): values that may be large tensors."""
    found = []

    def visit(node, arguments):
        if isinstance(node, ast.FunctionDef):
            args = node.args
            names = {a.arg for a in (*args.args, *args.posonlyargs, *args.kwonlyargs)}
            arguments = arguments | names - {"self"}
        for text in ast.walk(node.exc) if isinstance(node, ast.Raise) and node.exc else ():
            before = ""
            for part in text.values if isinstance(text, ast.JoinedStr) else ():
                if isinstance(part, ast.Constant):
                    before = part.value
                    continue
                value, before_it, before = part.value, before, ""
                ours = isinstance(value, ast.Subscript) or before_it.endswith("[")  # keys, titles
                called = isinstance(value, ast.Call)
                listed = called and getattr(value.func, "attr", "") == "tolist"
                printed = part.conversion == ord("r") and not called and not ours
                given = isinstance(value, ast.Name) and value.id in arguments
                if listed or printed or (given and before_it.endswith("got ")):
                    found.append((node.lineno, ast.unparse(value)))
        for child in ast.iter_child_nodes(node):
            visit(child, arguments)

    visit(tree, frozenset())
    return found


@pytest.mark.parametrize(
    "line",
    ["f'x is {x!r}'", "f'got {x}'", "f'got {got!r}'", "f'got {x.tolist()}'", "f'got {x.y!r}'"],
)
def test_a_value_that_is_printed_as_it_came_is_found(line):
    assert raw_values(ast.parse(f"def f(x):\n    raise ValueError({line})"))
    assert not raw_values(ast.parse("def f(x):\n    raise ValueError(f'got {shortly(x)}')"))


def test_no_message_prints_a_value_as_it_came():
    folder = Path(diffflow_edu.__file__).parent
    found = {
        str(path.relative_to(folder)): raw
        for path in sorted(folder.rglob("*.py"))
        if (raw := raw_values(ast.parse(path.read_text("utf-8"))))
    }
    found.pop("__init__.py")  # AttributeError: the name of an attribute
    assert found == {}


def test_messages_about_large_tensors_are_short(model):
    large, x, falling = torch.randn(400, 400), torch.randn(4, 2), torch.linspace(1, 0, 5000)
    path = Trajectory(torch.linspace(0, 1, 3), torch.zeros(3, 5, 2))
    flow = CNF.mlp(hidden=8)
    for call in (
        lambda: model.bound(x, noise=large),
        lambda: model.bound(x, noise=large.tolist()),
        lambda: model.bound(x, gradient=large),
        lambda: model.sample(large),
        lambda: model.sample(3, lam=large),
        lambda: DiffFlow(large, large, model.schedule),
        lambda: DiffFlow.mlp(large),
        lambda: flow.sample(3, times=falling),
        lambda: flow.encode(x, times=falling.tolist()),
        lambda: CNF.mlp(T=large),
        lambda: integrate(lambda x, t: x, x, torch.cat([falling, falling])),
        lambda: Schedule.log_snr(r_min=large),
        lambda: Schedule.log_snr(3).respaced(large),
        lambda: toy.load(large),
        lambda: toy.load("ring", width=large),
        lambda: images.load(large),
        lambda: zoo.pretrained(large, large),
        lambda: diffflow_edu.fit(model, x, ema=large),
        lambda: diffflow_edu.fit(model, x, checkpoint=large),
        lambda: play(path, direction=large),
        lambda: model.set_standardisation(large.log(), 1.0),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert len(str(caught.value)) < 500, caught.value
        assert "\n" not in str(caught.value)
