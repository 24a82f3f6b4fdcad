"""Models by class: labels in `fit`, in the words of every process, and guidance.

References: the model without classes, the model asked particle by particle, and plain autograd.
"""

import copy

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from diffflow_edu import CNF, DDPM, DiffFlow, Schedule, fit, images, load, play, save, toy, zoo
from diffflow_edu.checkpoints import CheckpointError
from diffflow_edu.labels import Given, as_labels
from diffflow_edu.nets import MLP, NoisePrediction
from diffflow_edu.processes import samplers
from diffflow_edu.processes.likelihood import (
    ProbabilityFlow,
    importance_weighted,
    path_bounds,
    sample_family,
)
from diffflow_edu.processes.ode import Solver
from diffflow_edu.unet import UNet

CLASSES, N = 3, 4
GRID = Schedule.log_snr(N)
COARSE = Solver("rk4", steps=4)
Y = torch.tensor([0, 2, 1, 3, 0])  # one of "none" among them
X = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
both = pytest.mark.parametrize("kind", [DiffFlow, DDPM])


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")


def moved(model, dtype=torch.float32):
    """As after some training: no weight at zero, and classes that differ."""
    torch.manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return model.eval().to(dtype)


def make(kind, classes=CLASSES, dtype=torch.float32):
    torch.manual_seed(0)
    return moved(kind.mlp(GRID, hidden=16, classes=classes), dtype)


def small(kind=DDPM, classes=CLASSES):
    torch.manual_seed(0)
    return kind.mlp(GRID, hidden=16, classes=classes)


# Untrained, and without a label ------------------------------------------------------------------


@pytest.mark.parametrize(
    "make_net",
    [
        lambda classes: (MLP(hidden=16, classes=classes), torch.randn(6, 2)),
        lambda classes: (UNet(1, "tiny", classes=classes), torch.randn(6, 1, 8, 8)),
    ],
    ids=["MLP", "UNet"],
)
def test_a_net_with_classes_starts_as_the_one_without_and_takes_its_weights(make_net):
    (plain, x), (by_class, _) = (torch.manual_seed(0) and make_net(c) for c in (0, CLASSES))
    t, label = torch.tensor(0.3), torch.tensor([0, 1, 2, 3, 0, 1])
    assert torch.equal(plain(x, t), by_class(x, t))
    assert torch.equal(plain(x, t), by_class(x, t, torch.tensor(2)))
    assert torch.allclose(plain(x, t), by_class(x, t, label), atol=1e-6)
    moved(plain)
    by_class.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(plain(x, t), by_class(x, t, torch.tensor(1)))


@both
def test_a_trained_model_goes_on_with_classes_as_the_same_model(kind):
    plain, by_class = make(kind, classes=0), small(kind).eval()
    missing, unexpected = by_class.load_state_dict(plain.state_dict(), strict=False)
    assert all("label" in name for name in missing) and not unexpected
    for label in (None, 1):
        assert torch.equal(by_class.bound(X, seed=0, label=label), plain.bound(X, seed=0))
        path = by_class.sample(5, seed=0, label=label)
        assert torch.equal(path.states, plain.sample(5, seed=0).states)


@both
def test_the_class_none_is_the_model_without_a_label(kind):
    model = make(kind)
    none = torch.full((5,), CLASSES)
    assert torch.allclose(model.bound(X, seed=0, label=none), model.bound(X, seed=0), atol=1e-5)
    assert torch.equal(model.bound(X, seed=0, label=CLASSES), model.bound(X, seed=0))
    assert torch.equal(model.given(None).sample(5, seed=0).states, model.sample(5, seed=0).states)
    assert not torch.allclose(model.bound(X, seed=0, label=0), model.bound(X, seed=0))


# One label for each particle ---------------------------------------------------------------------


@both
def test_labels_of_each_particle_are_as_if_it_were_asked_alone(kind):
    model = make(kind, dtype=torch.float64)
    x, seeds = X.double(), range(5)

    def alone(ask):
        return torch.cat([ask(x[i : i + 1], [i], int(Y[i])) for i in range(5)])

    assert torch.allclose(
        model.bound(x, seed=seeds, label=Y), alone(lambda x, s, y: model.bound(x, seed=s, label=y))
    )
    assert torch.allclose(
        model.encode(x, seeds, label=Y).end, alone(lambda x, s, y: model.encode(x, s, label=y).end)
    )
    assert torch.allclose(
        model.decode(x, seeds, label=Y, guidance=1.0).start,
        alone(lambda x, s, y: model.decode(x, s, label=y, guidance=1.0).start),
    )
    assert torch.allclose(
        model.log_prob(x, label=Y, guidance=0.5, solver=COARSE),
        alone(lambda x, s, y: model.log_prob(x, label=y, guidance=0.5, solver=COARSE)),
    )


@pytest.mark.parametrize(
    "sample",
    [
        lambda m, **how: m.sample(5, seed=0, **how),
        lambda m, **how: m.encode(X, seed=0, **how),
        lambda m, **how: sample_family(m, 5, lam=0.5, substeps=2, seed=0, **how),
        lambda m, **how: samplers.reverse_sde(m, 5, corrector_steps=1, seed=0, **how),
        lambda m, **how: samplers.ddim(m, 5, seed=0, **how),
        lambda m, **how: samplers.ddim_encode(m, X, **how),
        lambda m, **how: ProbabilityFlow(m, solver=COARSE).sample(5, seed=0, **how),
    ],
    ids=["sample", "encode", "family", "reverse_sde", "ddim", "ddim_encode", "ode"],
)
def test_a_batch_takes_the_labels_of_its_own_particles(sample, request):
    kind = DDPM if "ddim" in request.node.callspec.id else DiffFlow
    model = make(kind).given(Y, guidance=1.0)
    whole = sample(model).states
    assert torch.allclose(sample(model, batch=2).states, whole, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(sample(make(kind)).states, whole, atol=1e-2)


class Label(torch.nn.Module):
    """Says that x_0 is the label in all its coordinates, as it is below."""

    classes, takes_many_times = 5, True

    def forward(self, x, t, label=None):
        return label.unsqueeze(-1).expand_as(x).to(x)


@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize("steps", [2, 10])  # fewer and more than there are particles
def test_the_loss_of_a_ddpm_follows_each_particle_to_the_step_that_it_visits(steps, many):
    label = torch.tensor([4, 0, 3, 1, 2])
    x = label[:, None].expand(5, 2).double()
    model = DDPM(Label(), Schedule.log_snr(steps), prediction="x0").double()
    model.score.takes_many_times = many
    # With x_0 known no divergence depends on what is drawn, and all particles have the same.
    wanted = model.given(label).bound_terms(x, seed=0)
    assert wanted.kl.std(1).max() < 1e-9 and wanted.reconstruction.std() < 1e-9
    for seed in range(3):
        torch.manual_seed(seed)
        assert float(model.loss(x, label=label)) == pytest.approx(float(wanted.total.mean()))
    assert float(model.loss(x, label=label.flip(0))) > 1.5 * float(wanted.total.mean())


def test_importance_weights_are_of_the_labels_given():
    model = make(DDPM, dtype=torch.float64).given(Y)
    bounds = path_bounds(model, X.double(), 6, seed=0)
    assert bounds.shape == (6, 5)
    assert (importance_weighted(bounds) <= bounds.mean(0)).all()
    for label in range(CLASSES):  # the same paths, all of one label
        of_all = path_bounds(model.given(label), X.double(), 6, seed=0)
        assert torch.allclose(of_all[:, label == Y], bounds[:, label == Y])


# Guidance ----------------------------------------------------------------------------------------


class Counted(MLP):
    calls = 0

    def forward(self, x, t, label=None):
        self.calls += 1
        return super().forward(x, t, label)


def test_guidance_of_zero_is_none_to_the_last_bit_and_at_no_second_evaluation():
    torch.manual_seed(0)
    model = moved(DDPM(Counted(hidden=16, classes=CLASSES), GRID))
    net = model.score.net
    plain, calls = model.sample(5, seed=0, label=1).states, net.calls
    assert calls == N
    assert torch.equal(model.sample(5, seed=0, label=1, guidance=0.0).states, plain)
    assert net.calls == 2 * N
    assert not torch.equal(model.sample(5, seed=0, label=1, guidance=0.5).states, plain)
    assert net.calls == 4 * N


@both
def test_guidance_extends_the_score_beyond_that_of_the_class_and_leaves_the_drift(kind):
    model, t = make(kind), torch.tensor(0.5)
    guided = model.given(1, guidance=2.0)
    wanted = 3 * model.given(1).score_at(X, t) - 2 * model.score_at(X, t)
    assert torch.allclose(guided.score_at(X, t), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(guided.drift_at(X, t), model.given(1).drift_at(X, t))


# The model given a label is a process ------------------------------------------------------------


@both
def test_a_model_given_a_label_holds_the_networks_and_what_else_the_model_has(kind):
    model = make(kind)
    model.set_standardisation(1.0, 2.0)
    model.card = {"name": "ours"}
    given = model.given(2)
    assert type(given) is kind and given.card == {"name": "ours"} and given.standardised
    assert {id(p) for p in given.parameters()} == {id(p) for p in model.parameters()}
    given.calibrate(X, seed=0)
    assert torch.equal(given.log_b_ratio, model.log_b_ratio) and model.log_b_ratio.any()
    again = make(kind)
    again.set_standardisation(1.0, 2.0)
    again.calibrate(X, seed=0, label=2)
    assert torch.equal(again.log_b_ratio, model.log_b_ratio)
    assert not any(isinstance(module, Given) for module in model.modules())
    assert not any(isinstance(module, Given) for module in given.given(None).modules())


def test_the_adjoint_is_autograd_for_labels_of_each_particle_and_of_all():
    for label in (Y, 1):
        grads = []
        for gradient in ("adjoint", "autograd"):
            model = make(DiffFlow, dtype=torch.float64)
            model.bound(X.double(), seed=0, gradient=gradient, label=label).sum().backward()
            grads.append([p.grad for p in model.parameters() if p.grad is not None])
        model = make(DiffFlow, dtype=torch.float64)
        noise = torch.randn(N, 5, 2, dtype=torch.float64)
        model.loss(X.double(), noise, label=label).backward()
        loss = [p.grad for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        model.bound(X.double(), noise, "autograd", label=label).mean().backward()
        plain = [p.grad for p in model.parameters() if p.grad is not None]
        for a, b in (*zip(*grads, strict=True), *zip(loss, plain, strict=True)):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
        table = dict(model.named_parameters())["drift.label.table"].grad
        assert table.any() and (label is Y or not table[[0, 2, 3]].any())


def test_a_model_given_a_label_is_played_with_its_fields():
    model = make(DDPM)
    player = play({"2": model.given(2).sample(6, seed=0)}, fields={"2": model.given(2)})
    assert player.frames and player.arrows
    torch.manual_seed(0)
    little = Schedule.log_snr(N, r_max=0.5)  # little noise, little range
    pictures = moved(DDPM.unet(little, (1, 8, 8), "tiny", classes=10))
    seven = pictures.given(7, guidance=1.0)
    sheet = play({"a 7": seven.sample(4, seed=0)}, title="Draw me a 7")
    assert sheet.frames and "a 7" in sheet.alt
    assert not torch.equal(seven.sample(4, seed=0).start, pictures.sample(4, seed=0).start)


def test_a_model_with_classes_is_saved_and_made_by_its_recipe(tmp_path):
    model = make(DiffFlow)
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.classes == CLASSES
    assert torch.equal(again.bound(X, seed=0, label=Y), model.bound(X, seed=0, label=Y))
    with pytest.raises(ValueError, match=r"all classes, got one that is given a label"):
        save(model.given(1), tmp_path / "other")
    grid = ["log_snr", {"steps": N}]
    recipe = {"kind": "diffflow", "schedule": grid, "learn_backward_std": True, "classes": 10}
    for more in ({"hidden": 16}, {"size": "tiny", "shape": [1, 8, 8]}):
        model = zoo.build(recipe | more)
        assert model.classes == model.drift.classes == model.score.net.classes == 10
    recipe |= {"hidden": 16, "classes": CLASSES}
    zoo.save_model(tmp_path / "file", make(DiffFlow), {"recipe": recipe})
    assert zoo.load(tmp_path / "file").classes == CLASSES


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (4, "0 to 2, or 3 for none, or one for each particle, .*got 4"),
        (-1, "got -1"),
        (True, "got True"),
        (1.0, "got 1.0"),
        ("seven", "got 'seven'"),
        ([0, 1.5], r"got \[0, 1.5\]"),
        ([], r"got shape \(0,\)"),
        (torch.zeros(5), "got a tensor of torch.float32"),
        (torch.ones(5, dtype=torch.bool), "got a tensor of torch.bool"),
        (torch.zeros(5, 1, dtype=torch.long), r"got shape \(5, 1\)"),
        (torch.tensor([0, 1, 2, 3, 9]), "got 9"),
        (np.array([0.0, 1.0]), r"got an array of shape \(2,\)"),
    ],
    ids=str,
)
def test_what_is_no_label_is_refused_by_name(label, message):
    with pytest.raises(ValueError, match=f"label must be a whole number from .*{message}"):
        make(DDPM).given(label)


def test_labels_come_as_any_whole_numbers():
    for same in ([0, 2], (0, 2), np.array([0, 2], dtype=np.uint8), torch.tensor([0, 2]).int()):
        assert torch.equal(as_labels(same, 3), torch.tensor([0, 2]))
    assert as_labels(np.int64(2), 3).ndim == 0


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: m.bound(X, label=Y[:4]),
        lambda m: m.loss(X, label=Y[:4]),
        lambda m: m.loss(X[:3], label=Y[:4]),
        lambda m: m.given(Y[:4]).loss(X[:3]),
        lambda m: m.encode(X, label=Y[:4]),
        lambda m: m.calibrate(X, label=Y[:4]),
        lambda m: m.sample(5, label=Y[:4]),
        lambda m: m.decode(X, label=Y[:4]),
        lambda m: m.log_prob(X, label=Y[:4]),
        lambda m: samplers.ddim(m.given(Y[:4]), 5),
        lambda m: sample_family(m.given(Y[:4]), 5),
    ],
)
def test_more_or_fewer_labels_than_particles_are_refused(ask):
    with pytest.raises(ValueError, match="one for each: got 4 labels for [35] particles"):
        ask(make(DDPM))


def test_a_model_without_classes_refuses_labels_and_says_which_takes_them():
    plain = make(DDPM, classes=0)
    for ask in (
        lambda: plain.sample(3, label=1),
        lambda: plain.bound(X, label=1),
        lambda: plain.given(1),
        lambda: fit(plain, X, steps=1, labels=Y),
        lambda: fit(CNF.mlp(hidden=8), X, steps=1, labels=Y),
    ):
        with pytest.raises(ValueError, match=r"for a model with classes.*classes=10.*none"):
            ask()
    with pytest.raises(ValueError, match="label is for a network with classes"):
        MLP(hidden=8)(X, torch.tensor(0.5), Y)


def test_guidance_without_a_label_or_below_zero_is_refused():
    model = make(DDPM)
    with pytest.raises(ValueError, match="guidance needs a label"):
        model.sample(3, guidance=1.0)
    for wrong in (-1.0, float("nan"), "much", True):
        with pytest.raises(ValueError, match="guidance must be a finite number, 0 or more"):
            model.sample(3, label=1, guidance=wrong)


def test_drift_and_score_of_other_classes_are_refused():
    score = NoisePrediction(MLP(hidden=8, classes=4), GRID.noise_process)
    with pytest.raises(ValueError, match="same classes, got 3 and 4"):
        DiffFlow(MLP(hidden=8, classes=3), score, GRID)
    assert DiffFlow(MLP(hidden=8), score, GRID).given(3).bound(X).shape == (5,)


# Training ----------------------------------------------------------------------------------------

POINTS = torch.randn(60, 2, generator=torch.Generator().manual_seed(2))
LABELS = torch.arange(60) % CLASSES


@both
def test_dropped_labels_teach_the_class_none_and_kept_ones_the_classes(kind):
    losses = {}
    for share in (0.0, 1.0):
        model = small(kind)
        options = {"labels": LABELS, "label_dropout": share}
        losses[share] = fit(model, POINTS, steps=3, batch_size=16, **options).loss
        learned = model.score.net.label.table.any(1).tolist()
        assert learned == ([False] * CLASSES + [True] if share else [True] * CLASSES + [False])
    assert losses[0.0][0] == pytest.approx(losses[1.0][0], rel=1e-5)  # they start at zero


def test_labels_come_beside_a_tensor_in_pairs_or_with_a_density_or_pictures():
    def table(data, **options):
        model = small()
        fit(model, data, steps=2, batch_size=16, **options)
        return model.score.net.label.table

    beside = table(POINTS, labels=LABELS)
    assert (beside != 0).any(1).all()
    assert torch.equal(table(TensorDataset(POINTS, LABELS), labels=True), beside)
    assert torch.equal(table(POINTS.numpy(), labels=LABELS.numpy()), beside)
    pairs = [(x, int(y)) for x, y in zip(POINTS, LABELS, strict=True)]
    assert torch.equal(table(pairs, labels=True), beside)
    assert not torch.equal(table(TensorDataset(POINTS, LABELS.flip(0)), labels=True), beside)
    rings = small(classes=4)
    fit(rings, toy.load("four_rings"), steps=2, batch_size=16, labels=True)
    assert rings.score.net.label.table.any()
    digits = images.load("digits")
    pictures = DDPM.unet(Schedule.log_snr(2), digits.shape, "tiny", classes=digits.classes)
    fit(pictures, digits, steps=3, batch_size=4, labels=True)  # its blocks start at zero
    assert pictures.classes == 10 and pictures.score.net.label.table.any()


def test_labelled_draws_are_those_without_labels():
    density = toy.load("four_rings")
    x, label = density.sample_labelled(50, seed=3)
    assert torch.equal(x, density.sample(50, seed=3)) and torch.equal(label, density.mode(x))
    digits = images.load("digits")
    x, label = digits.sample_labelled(20, seed=3)
    assert torch.equal(x, digits.sample(20, seed=3))
    where = [(digits.train == p).flatten(1).all(1).nonzero()[0, 0] for p in digits.quantise(x)]
    assert torch.equal(label, digits.train_labels[torch.stack(where)])


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (POINTS, {"labels": LABELS[:9]}, r"labels of data must be one for each of 60.*\(9,\)"),
        (POINTS, {"labels": LABELS + 2}, "labels of data must be a whole number from 0 to 2.*4"),
        (POINTS, {"labels": LABELS.float()}, "labels of data must be .*torch.float32"),
        (POINTS, {"labels": True}, "data must come with labels, .*TensorDataset.*in place of True"),
        (POINTS, {"labels": False}, "labels must be True, None or"),
        (TensorDataset(POINTS), {"labels": True}, r"needs items \(x, label\) of data"),
        (TensorDataset(POINTS, POINTS), {"labels": True}, r"labels of data must.*got \[tensor"),
        (TensorDataset(POINTS, LABELS), {"labels": LABELS}, "labels must be True for data"),
        (POINTS, {"labels": LABELS, "label_dropout": 2}, "label_dropout must be from 0 to 1"),
        (
            POINTS,
            {"labels": LABELS, "validation": POINTS},
            "validation must come with labels, .*TensorDataset",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused_before_any_work(data, options, message):
    model = small()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        fit(model, data, steps=1, batch_size=16, **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_validation_looks_at_the_bound_given_the_labels():
    model = small()
    held = TensorDataset(POINTS[:20], LABELS[:20])
    options = {"labels": LABELS, "validation": held, "validate_every": 2, "ema": 0.0}
    history = fit(model, POINTS, steps=4, batch_size=16, lr=0.05, **options)
    torch.manual_seed(0)
    parts = zip(POINTS[:20].split(16), LABELS[:20].split(16), strict=True)
    with torch.no_grad():
        wanted = sum(float(model.bound(x, label=y).sum()) for x, y in parts) / 20
    assert min(history.validation_loss) == pytest.approx(wanted, rel=1e-5)


def test_a_training_with_labels_resumes_bit_for_bit_and_only_with_the_same_labels(tmp_path):
    def run(path, stop=None, **options):
        model = small(DiffFlow)
        options = {"labels": LABELS, "label_dropout": 0.3} | options
        fit(
            model, POINTS, steps=4, warm_start=2, batch_size=16, checkpoint=path,
            checkpoint_every=1, callback=lambda step, _: step == stop, **options,
        )  # fmt: skip
        return torch.cat([p.flatten() for p in model.state_dict().values()])

    whole = run(tmp_path / "whole.pt")
    run(tmp_path / "parts.pt", stop=2)
    torch.randn(3)
    for other in ({"labels": LABELS.flip(0)}, {"label_dropout": 0.2}, {"labels": None}):
        with pytest.raises(CheckpointError, match=r"of another run .*(data|label_dropout)="):
            run(tmp_path / "parts.pt", **other)
    assert torch.equal(run(tmp_path / "parts.pt"), whole)


def test_a_short_training_tells_two_labelled_clusters_apart():
    # On a line, 4 apart and .2 wide: without a label a sample is as likely here as there.
    torch.manual_seed(0)
    label = torch.randint(2, (400,))
    x = 4.0 * label[:, None] - 2 + 0.2 * torch.randn(400, 1)
    torch.manual_seed(0)
    model = DDPM.mlp(Schedule.log_snr(10, r_min=0.1, r_max=20), dim=1, hidden=32, classes=2)
    fit(model, x, steps=300, batch_size=64, lr=1e-2, labels=label)
    for y in (0, 1):
        samples = model.sample(500, seed=0, label=y).start
        assert ((samples - (4.0 * y - 2)).abs() < 2).float().mean() > 0.95
    assert 0.4 < (model.sample(500, seed=0).start > 0).float().mean() < 0.6
