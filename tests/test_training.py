"""`fit`: what it learns, what it repeats, what it survives."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import TensorDataset

from diffflow_edu import DDPM, DiffFlow, Schedule, fit, toy
from diffflow_edu.checkpoints import previous_of
from diffflow_edu.optimizers import make_optimizer
from diffflow_edu.processes.base import Process
from diffflow_edu.training import CheckpointError, History, NonFiniteLoss

DENSITY = toy.load("eight_gaussians", width=0.2)


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")


def small(kind=DiffFlow, steps=4, hidden=16, seed=0):
    torch.manual_seed(seed)
    schedule = Schedule.log_snr(steps=steps, r_min=0.1)
    return kind.mlp(schedule, hidden=hidden, learn_backward_std=True)


def weights(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


class Quadratic(Process):
    """One number, loss (w − c)²/2: what Adam and the average do to it is known."""

    def __init__(self, target=3.0):
        super().__init__()
        self.w, self.target = nn.Parameter(torch.zeros(1)), target
        self.seen = []

    def loss(self, x):
        if self.training:  # fit tries two particles in eval mode first
            self.seen.append(self.w.item())
        return 0.5 * (self.w - self.target).square().sum()


DATA = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))

# What it learns ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DiffFlow, DDPM])
def test_the_loss_falls_and_the_history_has_an_entry_a_step(kind):
    model = small(kind)
    history = fit(model, DENSITY, steps=150, batch_size=128, lr=1e-2)
    assert isinstance(history, History) and len(history.loss) == len(history.seconds) == 150
    assert np.mean(history.loss[-20:]) < np.mean(history.loss[:20]) - 0.5
    assert (np.diff(history.seconds) > 0).all()
    assert not model.training


def test_the_bound_of_the_fitted_model_nears_the_entropy_of_a_gaussian():
    """N(0, I) in one hundred joint steps: truth 2.838 nats, within .15 from above."""
    model = small(steps=6)
    data = torch.randn(4000, 2, generator=torch.Generator().manual_seed(1))
    fit(model, data, steps=250, batch_size=128, lr=1e-2)
    torch.manual_seed(0)
    with torch.no_grad():
        bound = model.bound(torch.randn(4000, 2)).mean().item()
    assert 2.838 - 0.05 < bound < 2.838 + 0.15


@pytest.mark.parametrize(
    "data",
    [
        DENSITY,
        DATA,
        DATA.numpy(),
        DATA.double().numpy()[::-1],
        TensorDataset(DATA),
        TensorDataset(DATA, torch.arange(64)),
        list(DATA.numpy()),
    ],
    ids=["density", "tensor", "array", "view", "dataset", "labelled", "list"],
)
def test_densities_tensors_arrays_and_datasets_all_do(data):
    model = small()
    history = fit(model, data, steps=3, batch_size=16)
    assert np.isfinite(history.loss).all()


def test_every_row_is_drawn_and_nothing_else():
    class Recorder(Quadratic):
        batches = []

        def loss(self, x):
            if self.training:
                self.batches.append(x.clone())
            return super().loss(x)

    rows = torch.arange(10.0).reshape(5, 2) / 3
    fit(Recorder(), rows, steps=20, batch_size=8)
    batches = torch.stack(Recorder.batches)
    assert batches.shape == (20, 8, 2)
    assert sorted(map(tuple, batches.flatten(0, 1).unique(dim=0).tolist())) == sorted(
        map(tuple, rows.tolist())
    )


def test_a_double_model_is_fed_doubles():
    model = small().double()
    assert np.isfinite(fit(model, DENSITY, steps=2, batch_size=16).loss).all()


def test_the_model_ends_with_the_warmed_up_average_of_its_weights():
    """A_0 = w_0, then A ← A + (1 − min(ema, k/(9 + k))) (w_k − A) for k = 1 … steps."""
    model, last = Quadratic(), []
    fit(model, DATA, steps=40, ema=0.7, callback=lambda step, m: last.append(m.w.item()))
    average = 0.0
    for k, w in enumerate(last, start=1):
        average += (1 - min(0.7, k / (9 + k))) * (w - average)
    assert model.w.item() == pytest.approx(average, rel=1e-5)


def test_without_averaging_the_model_ends_with_its_last_weights():
    model, last = Quadratic(), []
    fit(model, DATA, steps=7, ema=0.0, callback=lambda step, m: last.append(m.w.item()))
    assert model.w.item() == last[-1]


def test_the_learning_rate_falls_along_a_cosine_and_is_constant_in_the_warm_start():
    """Adam's first steps on a steep slope have length lr."""
    model = Quadratic(target=1e6)
    fit(model, DATA, steps=10, lr=0.1)
    lengths = np.diff(model.seen)
    expected = 0.05 * (1 + np.cos(np.pi * np.arange(9) / 10))
    assert lengths == pytest.approx(expected, rel=1e-3)


def test_a_warm_start_moves_the_score_and_leaves_the_drift_at_zero():
    model, drifts, scores = small(), [], []

    def look(step, m):
        drifts.append(m.drift.last.weight.abs().sum().item())
        scores.append(m.score.net.last.weight.sum().item())

    history = fit(model, DENSITY, steps=3, warm_start=4, batch_size=32, callback=look)
    assert len(history.loss) == 7
    assert drifts[:4] == [0, 0, 0, 0] and drifts[4] > 0
    assert len(set(scores)) == 7


def test_large_gradients_are_clipped():
    model = Quadratic(target=1e6)
    fit(model, DATA, steps=1, clip=0.5)
    assert model.w.grad.norm().item() == pytest.approx(0.5, rel=1e-4)


# What it repeats --------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    def run(seed):
        model = small()
        fit(model, DENSITY, steps=5, batch_size=32, seed=seed, warm_start=3)
        return weights(model)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_the_global_generator_is_left_as_it_was():
    model = small()
    state = torch.get_rng_state()
    fit(model, DENSITY, steps=2, batch_size=8)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(KeyboardInterrupt):
        fit(model, DENSITY, steps=2, batch_size=8, callback=interrupt_at(0))
    assert torch.equal(torch.get_rng_state(), state)


# Checkpoints ------------------------------------------------------------------------------------


def interrupt_at(last):
    def callback(step, model):
        if step == last:
            raise KeyboardInterrupt

    return callback


def flexible():
    torch.manual_seed(0)
    schedule = Schedule.polynomial(steps=4, T=0.5, flexible=True)
    return DiffFlow.mlp(schedule, hidden=16, learn_backward_std=True)


RUN = {"steps": 12, "batch_size": 32, "warm_start": 4, "checkpoint_every": 3}


@pytest.mark.parametrize("build", [small, flexible])
@pytest.mark.parametrize("killed", [1, 5, 10, 15])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, build, killed):
    """Killed in the warm start, in joint training and after the last step, before it is saved."""
    whole = build()
    expected = fit(whole, DENSITY, **RUN)

    path = tmp_path / "deep" / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(build(), DENSITY, **RUN, checkpoint=path, callback=interrupt_at(killed))
    resumed, steps = build(), []
    history = fit(resumed, DENSITY, **RUN, checkpoint=path, callback=lambda s, m: steps.append(s))
    assert steps[0] == max(1, killed // 3 * 3)  # the first step is kept at once
    assert torch.equal(weights(resumed), weights(whole))
    assert history.loss == expected.loss
    assert (np.diff(history.seconds) > 0).all()


def test_a_finished_run_is_not_run_again(tmp_path):
    first, again = small(), small(seed=1)
    history = fit(first, DENSITY, **RUN, checkpoint=tmp_path / "run.pt")
    repeated = fit(again, DENSITY, **RUN, checkpoint=tmp_path / "run.pt", callback=interrupt_at(0))
    assert torch.equal(weights(first), weights(again)) and repeated.loss == history.loss


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    fit(small(), DENSITY, **RUN, checkpoint=path)
    good = path.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"run.pt", "run.pt.previous"}
    for file in tmp_path.iterdir():
        file.unlink()

    saved = []

    def save(state, target):
        saved.append(target)
        if len(saved) > 3:  # after steps 1, 3 and 6
            target.write(good[:100])
            raise OSError("No space left on device")
        torch_save(state, target)

    torch_save = torch.save
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="No space"):
        fit(small(), DENSITY, **RUN, checkpoint=path)
    assert torch.load(path, weights_only=True)["step"] == 6


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    fit(small(), DENSITY, **RUN, checkpoint=path)
    return path


def truncate(path):
    path.write_bytes(path.read_bytes()[:-500])


def test_a_truncated_checkpoint_is_named_and_the_one_before_it_used(checkpoint):
    whole = small()
    expected = fit(whole, DENSITY, **RUN)
    truncate(checkpoint)
    model = small(seed=5)
    with pytest.warns(UserWarning, match=f"{checkpoint} cannot be read.*Going on from .*previous"):
        history = fit(model, DENSITY, **RUN, checkpoint=checkpoint)
    assert history.loss == expected.loss and torch.equal(weights(model), weights(whole))
    again = small(seed=6)  # what was written since is whole
    fit(again, DENSITY, **RUN, checkpoint=checkpoint)
    assert torch.equal(weights(again), weights(whole))


def test_a_run_killed_between_two_renames_goes_on_from_the_previous_checkpoint(checkpoint):
    whole = small()
    fit(whole, DENSITY, **RUN)
    checkpoint.unlink()
    model = small(seed=5)
    fit(model, DENSITY, **RUN, checkpoint=checkpoint)
    assert torch.equal(weights(model), weights(whole))


def test_without_a_whole_checkpoint_it_is_named_and_the_model_untouched(checkpoint):
    truncate(checkpoint)
    previous_of(checkpoint).unlink()
    model = small(seed=5)
    before = weights(model).clone()
    message = f"checkpoint {re.escape(str(checkpoint))} cannot be read, it may be truncated.*Delete"
    with pytest.raises(CheckpointError, match=message):
        fit(model, DENSITY, **RUN, checkpoint=checkpoint)
    assert torch.equal(weights(model), before)


def test_training_that_a_callback_ends_goes_on_from_where_it_ended(tmp_path):
    whole = small()
    expected = fit(whole, DENSITY, **RUN)
    path = tmp_path / "run.pt"
    fit(small(), DENSITY, **RUN, checkpoint=path, callback=lambda step, model: step == 4)
    assert torch.load(path, weights_only=True)["step"] == 5
    model = small(seed=3)
    history = fit(model, DENSITY, **RUN, checkpoint=path)
    assert history.loss == expected.loss and torch.equal(weights(model), weights(whole))


def test_a_checkpoint_of_another_architecture_is_named(checkpoint):
    for model, what in [
        (small(hidden=8), r"drift.layers.0.weight is \(16, .*in this model"),
        (small(DDPM), "drift.layers.0.weight is .* there and absent in this model"),
        (small(steps=5), r"log_b_ratio is \(4, .* there and \(5, "),
        (small().double(), "float32.* there and .*float64"),
    ]:
        with pytest.raises(CheckpointError, match=f"another architecture: .*{what}"):
            fit(model, DENSITY, **RUN, checkpoint=checkpoint)


def test_a_checkpoint_of_another_run_is_named(checkpoint):
    with pytest.raises(CheckpointError, match="another run .steps=12 there, 11 here"):
        fit(small(), DENSITY, **{**RUN, "steps": 11}, checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match="seed=0 there, 1 here"):
        fit(small(), DENSITY, **RUN, seed=1, checkpoint=checkpoint)
    other = DiffFlow.mlp(Schedule.geometric(steps=4), hidden=16, learn_backward_std=True)
    with pytest.raises(CheckpointError, match=r"schedule=Schedule\(steps=4, "):
        fit(other, DENSITY, **RUN, checkpoint=checkpoint)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="was not written by fit"):
        fit(small(), DENSITY, **RUN, checkpoint=tmp_path / "other.pt")
    assert issubclass(CheckpointError, ValueError)


# What it survives -------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_with_step_and_value_and_keeps_the_last_good_weights():
    class Breaks(Quadratic):
        def loss(self, x):
            value = super().loss(x)
            return value * (float("nan") if len(self.seen) == 7 else 1)

    model, live = Breaks(), []
    with pytest.raises(NonFiniteLoss, match="the loss became nan at step 6 of 9.*smaller lr"):
        fit(model, DATA, steps=9, callback=lambda step, m: live.append(m.w.item()))
    # By hand: w_1 … w_5 had a finite loss at steps 1 … 5; w_6 has none.
    average = 0.0
    for k, w in enumerate(live[:5], start=1):
        average += (1 - k / (9 + k)) * (w - average)
    assert model.w.item() == pytest.approx(average, rel=1e-5)
    assert not model.training


def test_weights_that_broke_in_the_step_before_do_not_enter_the_average():
    """The loss is finite, the step it asks for is not good, the next loss is not finite."""

    class Breaks(Quadratic):
        def loss(self, x):
            return super().loss(x) if self.w.abs() < 1e30 else self.w.sum() * float("inf")

    model = Breaks()

    def spoil(step, m):
        if step == 4:
            with torch.no_grad():
                m.w.fill_(float("inf"))

    with pytest.raises(NonFiniteLoss, match="at step 5 of 9"):
        fit(model, DATA, steps=9, callback=spoil)
    assert torch.isfinite(model.w).all() and 0 < model.w.item() < 1


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights():
    class Breaks(Quadratic):
        def loss(self, x):
            value = super().loss(x)
            if len(self.seen) == 4:  # √0 is finite, its slope is not
                value = value + (self.w - self.w.detach()).sqrt().sum()
            return value

    model, live = Breaks(), []
    with pytest.raises(NonFiniteLoss, match="norm of the gradient became inf at step 3 of 9"):
        fit(model, DATA, steps=9, callback=lambda step, m: live.append(m.w.item()))
    assert len(live) == 3 and 0 < model.w.item() <= live[-1]


def test_a_learning_rate_far_too_large_leaves_a_model_that_can_be_used():
    model = small()
    data = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(NonFiniteLoss):
        fit(model, data, steps=200, batch_size=16, lr=1e6)
    assert weights(model).isfinite().all()


# What it prints ---------------------------------------------------------------------------------


def test_it_is_silent_when_asked(capsys):
    fit(Quadratic(), DATA, steps=3)
    assert capsys.readouterr() == ("", "")


def test_otherwise_a_bar_on_stdout_shows_the_loss_and_the_time_left(capsys, monkeypatch):
    monkeypatch.delenv("DIFFFLOW_EDU_PROGRESS")
    fit(Quadratic(target=1.0), DATA, steps=3, lr=1e-9)
    out, err = capsys.readouterr()
    assert err == ""
    last = out.replace("\r", "\n").strip().splitlines()[-1]
    assert re.search(r"100%.* 3/3, loss 0\.500 nats \[\d\d:\d\d left\]", last), last


# Bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be a whole number, 1 or more, got 0"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"steps": True}, "steps must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number, 1 or more, got 0"),
        ({"warm_start": -1}, "warm_start must be a whole number, 0 or more, got -1"),
        ({"checkpoint_every": 0}, "checkpoint_every must be a whole number"),
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"lr": float("nan")}, "lr must be positive and finite, got nan"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1, got 1.0"),
        ({"clip": 0.0}, "clip must be positive, got 0.0"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named_before_any_work_is_done(arguments, message):
    model = small()
    before = weights(model).clone()
    with pytest.raises(ValueError, match=re.escape(message)):
        fit(model, DENSITY, **arguments)
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.int64), "data must be floating point, got torch.int64"),
        (np.zeros((3, 2), dtype=np.uint8), "data must be floating point, got torch.uint8"),
        (torch.zeros(3), r"data must have shape \(B, \*shape\) with B ≥ 1, got \(3,\)"),
        (torch.zeros(0, 2), r"data must have shape \(B, \*shape\) with B ≥ 1, got \(0, 2\)"),
        (torch.tensor([[0.0, 1.0], [np.nan, 1.0]]), "data must be finite.* in 1 of 2 rows"),
        (TensorDataset(torch.zeros(0, 2)), "data must hold at least one item"),
        (TensorDataset(torch.ones(3, 2, dtype=torch.uint8)), "floating point items.*uint8"),
        ("olympic_rings", "data must be a density .* got str"),
        (7, "data must be a density with .sample.*, got int"),
    ],
)
def test_data_that_cannot_be_used_is_named(data, message):
    with pytest.raises(ValueError, match=message):
        fit(small(), data, steps=1, batch_size=4)


def test_data_of_another_dimension_than_the_model_is_named():
    with pytest.raises(ValueError, match=r"data of shape \(3,\) .* x must have 2 numbers"):
        fit(small(), torch.randn(10, 3), steps=1, batch_size=4)


def test_data_far_from_unit_scale_earns_a_warning_that_says_what_to_do():
    with pytest.warns(UserWarning, match="standard deviation of .*Subtract the mean"):
        fit(small(), 1000 * DATA, steps=1, batch_size=4)


def test_a_model_that_is_none_or_learns_nothing_is_named():
    with pytest.raises(ValueError, match="model must be a Process such as DiffFlow, got Linear"):
        fit(nn.Linear(2, 2), DATA, steps=1)
    flow = DiffFlow(lambda x, t: x, lambda x, t: x, Schedule.log_snr(steps=2))
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        fit(flow, DATA, steps=1)
    with pytest.raises(ValueError, match="warm_start needs a DiffFlow, got Quadratic"):
        fit(Quadratic(), DATA, steps=1, warm_start=1)


class Sizes(TorchDispatchMode):
    """The numbers in the largest tensor that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            # A view, such as a piece of the data, has no memory of its own.
            if isinstance(value, torch.Tensor) and not value._is_view():
                self.largest = max(self.largest, value.numel())
        return result


@pytest.mark.parametrize("bad", [False, True])
def test_no_tensor_as_large_as_the_data_is_made_to_train_on_it(bad):
    data = torch.randn(2_000_000, 6, generator=torch.Generator().manual_seed(0))  # like POWER
    torch.manual_seed(0)
    model = DDPM.mlp(Schedule.log_snr(steps=4), dim=6, hidden=8)
    if bad:
        data[[3, 1_999_999], 2] = torch.inf
    with Sizes() as sizes:
        if bad:
            with pytest.raises(ValueError, match="infinity in 2 of 2000000 rows"):
                fit(model, data, steps=1, batch_size=16)
        else:
            fit(model, data, steps=1, batch_size=16)
    assert 0 < sizes.largest <= 0.1 * data.numel()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([[1.0, 2.0]] * 8, "data must have shape"),
        ({"x": torch.randn(8, 2)}, "data must be a density"),
        (np.array([[None, 1.0]] * 8), "data must be a density"),
        ([{"x": torch.randn(2)}] * 8, "data must give tensors"),
        ([torch.full((2,), float("nan"))] * 8, "data must be finite"),
    ],
    ids=["list of lists", "dict", "array of objects", "items are dicts", "items are NaN"],
)
def test_data_that_cannot_be_learned_is_refused_before_training(data, words):
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        fit(model, data, steps=2, batch_size=4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training  # as it came


def test_a_big_endian_array_is_learned_like_any_other():
    losses = [
        fit(Quadratic(), DATA.numpy().astype(kind), steps=3, seed=1).loss for kind in (">f4", "<f4")
    ]
    assert losses[0] == losses[1]


def test_an_interrupt_leaves_the_averaged_weights_in_eval_mode():
    def stop(step, model):
        if step == 5:
            raise KeyboardInterrupt

    model, live = Quadratic(), []
    with pytest.raises(KeyboardInterrupt):
        fit(model, DATA, steps=9, callback=lambda k, m: (live.append(m.w.item()), stop(k, m)))
    assert not model.training
    assert live[0] < model.w.item() < live[-1]  # an average of the steps, which all go up


def test_a_checkpoint_of_a_schedule_that_differs_in_one_time_is_refused(tmp_path):
    def model(middle):
        torch.manual_seed(0)
        return DDPM.mlp(Schedule.euler(torch.tensor([0, 0.1, middle, 0.9, 1.0]), 1.0), hidden=8)

    path = tmp_path / "run.pt"
    fit(model(0.4), DATA, steps=2, batch_size=8, checkpoint=path)
    with pytest.raises(CheckpointError, match="schedule="):
        fit(model(0.6), DATA, steps=2, batch_size=8, checkpoint=path)


def test_a_history_is_one_line():
    assert repr(fit(Quadratic(), DATA, steps=3)).startswith("History(3 steps in ")


def test_muon_learns_and_goes_on_where_it_stood(tmp_path):
    def trained(stop: int | None) -> DiffFlow:
        torch.manual_seed(0)
        model = DiffFlow.mlp(Schedule.geometric(steps=3), hidden=16)
        data = toy.load("olympic_rings")
        options = {"steps": 40, "batch_size": 64, "warm_start": 10, "optimizer": "muon"}
        options |= {"checkpoint": tmp_path / f"{stop}.pt", "checkpoint_every": 10}
        if stop is not None:
            fit(model, data, **options, callback=lambda step, _: step == stop)
        history = fit(model, data, **options)
        assert sum(history.loss[-5:]) < sum(history.loss[10:15])
        return model

    whole, resumed = trained(None).state_dict(), trained(25).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_muon_moves_the_inner_matrices_and_adam_the_rest():
    model = DiffFlow.mlp(Schedule.geometric(steps=3), hidden=32)
    muon, adam = make_optimizer("muon", model, lr=1e-3).each
    shapes = {tuple(p.shape) for group in muon.param_groups for p in group["params"]}
    assert isinstance(muon, torch.optim.Muon) and shapes == {(32, 26), (32, 32)}
    count = sum(len(group["params"]) for one in (muon, adam) for group in one.param_groups)
    assert count == sum(p.requires_grad for p in model.parameters())


def test_an_optimizer_that_cannot_be_is_named(monkeypatch):
    model = DiffFlow.mlp(Schedule.geometric(steps=3), hidden=4)
    data = toy.load("olympic_rings")
    with pytest.raises(ValueError, match="optimizer must be 'adam' or 'muon', got 'sgd'"):
        fit(model, data, steps=1, optimizer="sgd")
    with pytest.raises(ValueError, match="matrices of 16 × 16 and more; this model has none"):
        fit(model, data, steps=1, optimizer="muon")
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match=r"needs torch 2\.9 or newer"):
        fit(model, data, steps=1, optimizer="muon")
