"""What a training leaves: checkpoints that know their data, callbacks, validation, history."""

import re
import threading
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from diffflow_edu import CNF, DDPM, DiffFlow, Schedule, fit, toy
from diffflow_edu.checkpoints import CheckpointError
from diffflow_edu.processes.langevin import NCSN
from diffflow_edu.training import History, NonFiniteLoss

X = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
V = torch.randn(100, 2, generator=torch.Generator().manual_seed(1))
DENSITY = toy.load("eight_gaussians", width=0.2)


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")


def small(seed=0, **options):
    torch.manual_seed(seed)
    return DiffFlow.mlp(Schedule.log_snr(steps=3, r_min=0.1), hidden=8, **options)


def weights(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


RUN = {"steps": 6, "batch_size": 16, "checkpoint_every": 2}


# Checkpoints --------------------------------------------------------------------------------------


class Blob:
    """A density of the user's own."""

    def __init__(self, mean):
        self.mean = mean

    def sample(self, n, seed=None):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return torch.randn(n, 2, generator=generator) + self.mean


@pytest.mark.parametrize("stop", [2, None])
@pytest.mark.parametrize(
    ("data", "other"),
    [
        (X, X + 2),
        (X, X[:199]),
        (X, torch.cat([X[:-1], X[-1:] + 1e-3])),
        (X.numpy(), X.numpy() + 2),
        (TensorDataset(X), TensorDataset(X + 2)),
        (DENSITY, toy.load("eight_gaussians", width=0.3)),
        (Blob(0.0), Blob(0.1)),
    ],
    ids=["shifted", "fewer", "one row", "array", "dataset", "density", "own density"],
)
def test_a_checkpoint_of_other_data_is_refused(tmp_path, data, other, stop):
    path = tmp_path / "run.pt"
    fit(small(), data, **RUN, checkpoint=path, callback=lambda step, m: step + 1 == stop)
    model = small(seed=1)
    before = weights(model).clone()
    with pytest.raises(CheckpointError, match="data=.* there, .* here"):
        fit(model, other, **RUN, checkpoint=path)
    assert torch.equal(weights(model), before)
    fit(model, data, **RUN, checkpoint=path)  # its own go on


def test_data_that_draw_differently_each_time_do_not_stand_in_the_way(tmp_path):
    class Stream:
        def __init__(self):
            self.rows = torch.Generator().manual_seed(0)

        def sample(self, n, seed=None):
            return torch.randn(n, 2, generator=self.rows)

    data = Stream()
    run = RUN | {"checkpoint": tmp_path / "run.pt"}
    fit(small(), data, **run, callback=lambda step, m: step == 2)
    assert len(fit(small(), data, **run).loss) == 6


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        (lambda: small(), lambda: small(smooth=True), "smooth=None there, LogSNR"),
        (lambda: CNF.mlp(hidden=8), lambda: CNF.mlp(hidden=8, train_steps=5), "train_steps=4"),
        (lambda: CNF.mlp(hidden=8), lambda: CNF.mlp(hidden=8, kinetic=0.1), "kinetic=0.0"),
        (lambda: CNF.mlp(hidden=8), lambda: CNF.mlp(hidden=8, T=2.0), "T=1.0"),
        (
            lambda: DDPM.mlp(Schedule.log_snr(3), hidden=8),
            lambda: DDPM.mlp(Schedule.log_snr(3), hidden=8, prediction="v"),
            "score=NoisePrediction there, VPrediction here",
        ),
        (lambda: small(), lambda: small(learn_backward_std=True), "log_b_ratio=frozen"),
    ],
    ids=["smooth", "train_steps", "kinetic", "horizon", "prediction", "learned std"],
)
def test_a_checkpoint_of_other_settings_is_refused_by_their_names(tmp_path, first, second, name):
    path = tmp_path / "run.pt"
    fit(first(), X, **RUN, checkpoint=path)
    with pytest.raises(CheckpointError, match=re.escape(name)):
        fit(second(), X, **RUN, checkpoint=path)


def test_a_checkpoint_of_a_standardised_run_goes_on_bit_for_bit(tmp_path):
    run = RUN | {"standardise": True}
    whole = small()
    expected = fit(whole, 7 * X + 30, **run)
    path = tmp_path / "run.pt"
    fit(small(), 7 * X + 30, **run, checkpoint=path, callback=lambda step, m: step == 2)
    again = small(seed=4)
    assert fit(again, 7 * X + 30, **run, checkpoint=path).loss == expected.loss
    assert torch.equal(weights(again), weights(whole))
    assert torch.equal(again.data_mean, whole.data_mean)


def test_a_checkpoint_of_an_earlier_version_goes_on_and_says_what_it_cannot_tell(tmp_path):
    path = tmp_path / "run.pt"
    expected = fit(small(), X, **RUN)
    fit(small(), X, **RUN, checkpoint=path, callback=lambda step, m: step == 2)
    state = torch.load(path, weights_only=True)
    old = (
        "steps batch_size seed warm_start lr ema clip model optimizer accumulate processes schedule"
    )
    state["run"] = {name: state["run"][name] for name in old.split()}
    state["history"] = {name: state["history"][name] for name in ("loss", "seconds")}
    del state["legs"], state["best"]
    torch.save(state, path)
    with pytest.warns(UserWarning, match="an earlier version, which did not record data"):
        assert fit(small(), X, **RUN, checkpoint=path).loss == expected.loss


def test_a_finished_training_is_extended_with_its_optimizer_along_a_new_cosine(tmp_path):
    path = tmp_path / "run.pt"
    short = fit(small(), X, **RUN, checkpoint=path)
    longer = RUN | {"steps": 10, "checkpoint": path}
    whole = small(seed=1)
    expected = fit(whole, X, **longer)
    assert len(expected.loss) == 10 and expected.loss[:6] == short.loss
    # Killed on the way, it ends the same.
    path.unlink()
    for old in tmp_path.iterdir():
        old.unlink()
    fit(small(), X, **RUN, checkpoint=path)
    with pytest.raises(CheckpointError, match="steps=6 there, 5 here"):
        fit(small(), X, **(RUN | {"steps": 5}), checkpoint=path)
    fit(small(), X, **longer, callback=lambda step, m: step == 7)
    with pytest.raises(CheckpointError, match="Only a finished one can be extended.* at step 8"):
        fit(small(), X, **(longer | {"steps": 12}))
    again = small(seed=2)
    assert fit(again, X, **longer).loss == expected.loss
    assert torch.equal(weights(again), weights(whole))


# Callbacks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("yes", [True, 1, np.bool_(True), np.float64(1) > 0, torch.tensor(True)])
def test_any_truth_ends_training(yes):
    assert len(fit(small(), X, **RUN, callback=lambda step, m: yes).loss) == 1


@pytest.mark.parametrize("no", [None, False, 0, np.bool_(False), torch.tensor(0.0), (None, None)])
def test_what_is_not_true_does_not(no):
    assert len(fit(small(), X, **RUN, callback=lambda step, m: no).loss) == 6


def test_an_answer_that_is_neither_is_named():
    with pytest.raises(ValueError, match=r"Tensor of shape \(3,\), which is neither true nor"):
        fit(small(), X, **RUN, callback=lambda step, m: torch.ones(3) > 0)


def test_a_callback_of_three_arguments_gets_the_loss():
    seen, named, two = [], [], []

    def by_name(step, model, loss=None):
        named.append(loss)

    class Bound:
        def look(self, step, model, loss):
            seen.append(loss)

    expected = fit(small(), X, **RUN).loss
    fit(small(), X, **RUN, callback=Bound().look)
    fit(small(), X, **RUN, callback=by_name)
    fit(small(), X, **RUN, callback=lambda step, model, keep=two: keep.append(step))
    assert seen == named == expected and two == list(range(6))
    for wrong in (lambda: None, lambda step: None, lambda a, b, c, d: None):
        with pytest.raises(ValueError, match=r"callback\(step, model, loss\), got one that takes"):
            fit(small(), X, **RUN, callback=wrong)


def test_a_callback_may_look_without_changing_the_run():
    def flexible():
        torch.manual_seed(0)
        return DiffFlow.mlp(Schedule.polynomial(3, flexible=True), hidden=8)

    def look(step, model):
        model.eval().bound(V)
        model.sample(5)
        model.requires_grad_(False)
        model.drift.train()

    plain, looked = flexible(), flexible()
    assert fit(plain, X, **RUN).loss == fit(looked, X, **RUN, callback=look).loss
    assert torch.equal(weights(plain), weights(looked))


# Threads ------------------------------------------------------------------------------------------


def test_threads_train_one_after_another_each_as_if_alone():
    expected, found = fit(small(), X, **RUN, seed=1).loss, []
    models = [small() for _ in range(3)]

    def train(model):
        found.append(fit(model, X, **RUN, seed=1).loss)

    threads = [threading.Thread(target=train, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3


def test_a_training_within_a_callback_does_not_wait_for_itself():
    inner = []

    def nested(step, model):
        inner.append(fit(small(), X, **RUN).loss)

    outer = fit(small(), X, **RUN, callback=nested).loss
    assert inner == [outer] * 6


# Validation ---------------------------------------------------------------------------------------


def test_validation_keeps_the_best_weights_and_does_not_change_the_run():
    looks = {"validation": V, "validate_every": 2}
    plain = fit(small(), X, **(RUN | {"steps": 30}), lr=0.05)
    model = small()
    history = fit(model, X, **(RUN | {"steps": 30}), lr=0.05, **looks)
    assert history.loss == plain.loss and history.validation_steps == list(range(2, 31, 2))
    best = min(history.validation_loss)
    assert history.best_step == 2 * (1 + history.validation_loss.index(best))
    torch.manual_seed(0)
    with torch.no_grad():
        bounds = torch.cat([model.bound(part) for part in V.split(16)])
    assert best == pytest.approx(float(bounds.mean()), rel=1e-5)
    assert f"validation {best:.3f} at step {history.best_step}" in repr(history)


def test_patience_ends_training_after_so_many_looks_and_a_killed_run_too(tmp_path):
    # Learns five points by heart: on others it soon gets worse.
    run = {"steps": 400, "batch_size": 64, "lr": 0.02, "validation": V, "patience": 2}
    run |= {"validate_every": 10, "checkpoint_every": 5}
    whole = small()
    expected = fit(whole, X[:5], **run)
    assert len(expected.loss) == expected.best_step + 20 < 400
    path = tmp_path / "run.pt"
    fit(small(), X[:5], **run, checkpoint=path, callback=lambda s, m: s == expected.best_step + 3)
    for seed in (3, 4):  # the second finds it finished
        model = small(seed)
        history = fit(model, X[:5], **run, checkpoint=path)
        assert history.loss == expected.loss
        assert history.validation_loss == expected.validation_loss
        assert torch.equal(weights(model), weights(whole))
    with pytest.raises(CheckpointError, match="validation=.*there"):
        fit(small(), X[:5], **(run | {"validation": V + 1}), checkpoint=path)


def test_a_process_without_a_bound_is_validated_by_its_loss():
    torch.manual_seed(0)
    history = fit(NCSN.mlp(3, hidden=8), X, **RUN, validation=V, validate_every=3)
    assert len(history.validation_loss) == 2 and np.isfinite(history.validation_loss).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": torch.randn(9, 3)}, r"validation of shape \(3,\) a particle does not fit"),
        ({"validation": torch.tensor([[0.0, np.nan]])}, "validation must be finite"),
        ({"patience": 2}, "patience needs validation data"),
        ({"validation": V, "patience": 0}, "patience must be a whole number"),
        ({"validation": V, "validate_every": 0}, "validate_every must be a whole number"),
        ({"standardise": "yes"}, "standardise must be True or False"),
        ({"seed": 2**70}, "seed must be"),
    ],
)
def test_options_that_cannot_be_used_are_named_before_any_work(options, message):
    with pytest.raises(ValueError, match=message):
        fit(small(), X, **RUN, **options)


# History ------------------------------------------------------------------------------------------


def test_an_interrupt_and_a_broken_loss_leave_the_history_on_the_model():
    def interrupt(step, model, loss):
        if step == 3:
            raise KeyboardInterrupt

    model = small()
    with pytest.raises(KeyboardInterrupt):
        fit(model, X, **RUN, callback=interrupt)
    assert isinstance(model.history, History)
    assert model.history.loss == fit(small(), X, **RUN).loss[:4]
    broken = small()
    with warnings.catch_warnings(), pytest.raises(NonFiniteLoss):
        fit(broken, X, **(RUN | {"steps": 200}), lr=1e6)
    assert 0 < len(broken.history.loss) < 200


def test_a_history_says_what_its_loss_is():
    torch.manual_seed(0)
    run = {"steps": 2, "batch_size": 8}
    assert "loss" in repr(fit(NCSN.mlp(3, hidden=8), X, **run))
    assert "nats" not in repr(fit(NCSN.mlp(3, hidden=8), X, **run))
    said = r"nats by 4 steps of rk4, bound of the model \d\.\d+ nats\)$"
    assert re.search(said, repr(fit(CNF.mlp(hidden=8), X, **run)))
    assert repr(fit(small(), X, **run)).endswith("nats)")
    history = fit(CNF.mlp(hidden=8), X, **run, validation=V)
    assert history.validation_steps == [2]


def test_training_works_where_gradients_are_switched_off():
    with torch.no_grad():
        assert len(fit(small(), X, **RUN).loss) == 6


# Hints -------------------------------------------------------------------------------------------


class Bending:
    """Three thin clouds in space, which few steps of rk4 do not see."""

    def sample(self, n, seed=None):
        centres = torch.randn(3, 3, generator=torch.Generator().manual_seed(3))
        return centres[torch.randint(3, (n,))] + 0.05 * torch.randn(n, 3)


def test_a_history_of_rough_steps_states_the_bound_beside_them_and_a_gap_is_warned_of():
    torch.manual_seed(0)
    model = CNF.mlp(3, hidden=16, train_steps=1)
    with pytest.warns(UserWarning, match="where the 1 steps of rk4 that this training took see"):
        history = fit(model, Bending(), steps=20, batch_size=64, lr=0.02)
    x = Bending().sample(100)
    with torch.no_grad():
        rough, bound = (float(each(x).mean()) for each in (model.rough_bound, model.bound))
    assert bound == pytest.approx(history.bound, abs=1.5)
    assert rough == pytest.approx(history.rough_bound, abs=0.5)
    assert history.bound > history.rough_bound + 0.1
    assert f"bound of the model {history.bound:.3f} nats" in repr(history)


def test_a_history_of_a_field_that_steps_can_follow_says_so_without_a_word():
    model = CNF.mlp(hidden=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = fit(model, X, steps=5, batch_size=64)
    assert history.bound == pytest.approx(history.rough_bound, abs=0.02)
    assert fit(small(), X, steps=1).bound is None  # its loss is its bound


def test_a_field_that_the_solver_gives_up_on_is_told_of(monkeypatch):
    monkeypatch.setattr("diffflow_edu.training.EVALUATIONS", 3)
    model = CNF.mlp(hidden=8)
    solver = model.solver
    with pytest.warns(UserWarning, match="cannot be compared.*cannot reach its tolerance"):
        history = fit(model, X, steps=2, batch_size=64)
    assert np.isnan(history.bound) and model.solver is solver


def test_learnables_without_a_gradient_are_named_once():
    model = small()
    model.score.net.spare = torch.nn.Linear(3, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, X, steps=12, batch_size=32)
    (text,) = [str(w.message) for w in caught]
    assert "8 learnable numbers of the model got no gradient in its first 10 steps" in text
    assert "score.net.spare.weight, score.net.spare.bias" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.score.net.spare.requires_grad_(False)
        fit(model, X, steps=12, batch_size=32)


def test_a_history_is_written_as_a_table_beside_earlier_ones(tmp_path):
    history = fit(small(), X, steps=4, batch_size=16, validation=V, validate_every=2)
    paths = [history.to_csv(tmp_path / "loss.csv") for _ in range(2)]
    assert [path.name for path in paths] == ["loss.csv", "loss-2.csv"]
    table = np.genfromtxt(paths[0], delimiter=",", names=True)
    assert table["step"].tolist() == [1, 2, 3, 4] and table["loss"].tolist() == history.loss
    assert table["validation_loss"][[1, 3]].tolist() == history.validation_loss
    assert np.isnan(table["validation_loss"][[0, 2]]).all()


def test_a_training_may_count_some_steps_of_each_path(tmp_path):
    def run(path_steps, checkpoint=None, steps=6):
        torch.manual_seed(0)
        model = DiffFlow.mlp(Schedule.log_snr(steps=4), hidden=8)
        history = fit(
            model, toy.load("ring"), steps=steps, warm_start=2, batch_size=16, seed=0,
            path_steps=path_steps, checkpoint=checkpoint, checkpoint_every=2,
        )  # fmt: skip
        return model, history

    everything, some = run(4)[1].loss, run(2)[1].loss
    assert everything == run(None)[1].loss
    assert some[:2] == everything[:2]  # the warm start has no paths
    assert some[2:] != everything[2:]
    assert run(2, tmp_path / "a.pt")[1].loss == some
    with pytest.raises(CheckpointError, match="path_steps"):
        run(3, tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("model", "n", "message"),
    [
        (DDPM.mlp(Schedule.log_snr(steps=4), hidden=8), 2, "path_steps is for DiffFlow, got"),
        (DiffFlow.mlp(Schedule.log_snr(steps=4), hidden=8), 5, "path_steps must be at most N = 4"),
        (DiffFlow.mlp(Schedule.log_snr(steps=4), hidden=8), 0, "path_steps must be"),
    ],
)
def test_path_steps_that_cannot_be_counted_are_refused(model, n, message):
    with pytest.raises(ValueError, match=message):
        fit(model, toy.load("ring"), steps=1, batch_size=16, path_steps=n)
