"""All that a GPU run touches, on a device that is not there; run by tests/test_on_a_device.py.

Numbers are compared with the CPU's, of the same weights and noise: nothing else differs.
"""

from __future__ import annotations

import copy
import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from pretended import DEVICE, pretended_device

from benchmarks import gpu
from diffflow_edu import (
    CNF,
    DDPM,
    CouplingFlow,
    DiffFlow,
    Schedule,
    cli,
    devices,
    fid,
    figures,
    fit,
    images,
    load,
    metrics,
    play,
    save,
    toy,
)
from diffflow_edu.evaluation import evaluate
from diffflow_edu.player.probe import probe
from diffflow_edu.processes import samplers
from diffflow_edu.processes import score_matching as sm
from diffflow_edu.processes.langevin import NCSN, langevin
from diffflow_edu.processes.likelihood import (
    ProbabilityFlow,
    fokker_planck_residual,
    importance_weighted,
    path_bounds,
    sample_family,
    theorem_one,
    three_numbers,
)
from diffflow_edu.processes.ode import Solver
from diffflow_edu.scale import Config, train

NET = {"hidden": 16}  # what Muon asks for
GRID = Schedule.log_snr(3)
COARSE = Solver("rk4", steps=2)
LOOSE = Solver(rtol=0.03, atol=0.03)
MAKE = {
    "DiffFlow": lambda: DiffFlow.mlp(GRID, learn_backward_std=True, **NET),
    "DDPM": lambda: DDPM.mlp(GRID, learn_backward_std=True, **NET),
    "CNF": lambda: CNF.mlp(solver=COARSE, train_steps=2, frames=10, **NET),
    "CouplingFlow": lambda: CouplingFlow(2, layers=2, hidden=8),
    "NCSN": lambda: NCSN.mlp(levels=3, langevin_steps=2, **NET),
}
every = pytest.mark.parametrize("name", MAKE)
chains = pytest.mark.parametrize("name", ["DiffFlow", "DDPM"])


@pytest.fixture(params=[True, False], ids=["cuda", "mps"])
def device(request, monkeypatch):
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")
    torch.manual_seed(0)
    with pretended_device(float64=request.param) as place:
        yield place


def pair(name):
    """A model on the CPU, and its copy on the device."""
    here = MAKE[name]()
    for p in here.parameters():  # no layer stays at zero
        p.data = p.data + 0.1 * torch.randn(p.shape)
    return here.eval(), copy.deepcopy(here).to(DEVICE).eval()


def same(there, here, rtol=1e-5, atol=1e-6):
    assert there.device.type == DEVICE.type
    torch.testing.assert_close(there.detach().cpu(), here.detach(), rtol=rtol, atol=atol)


def same_gradients(there, here):
    for a, b in zip(there.parameters(), here.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            same(a.grad, b.grad)


def points(n=6):
    x = toy.load("olympic_rings").sample(n, seed=0)
    return x, x.to(DEVICE)


# The device bites ---------------------------------------------------------------------------------


def test_operands_on_two_devices_are_refused_but_a_number_may_join_in(device):
    x, x_there = points()
    with pytest.raises(RuntimeError, match="on the same device"):
        x_there * x
    with pytest.raises(RuntimeError, match="on the same device"):
        x_there.sum() * x
    with pytest.raises(RuntimeError, match="on the same device"):
        torch.cat([x_there, x])
    with pytest.raises(RuntimeError, match="on the same device"):
        x[torch.tensor([0], device=device)]
    same(x_there[torch.tensor([1, 0])] * torch.tensor(2.0), 2 * x[[1, 0]])


def test_a_generator_of_another_device_is_refused(device):
    for place, of in ((device, "cpu"), ("cpu", device)):
        with pytest.raises(RuntimeError, match="for generator but found"):
            torch.randn(2, generator=torch.Generator(of), device=place)


def test_seeding_the_cpu_alone_does_not_seed_the_device(device):
    state = torch.get_rng_state()
    first = torch.randn(3, device=device).cpu()
    torch.set_rng_state(state)
    assert not torch.equal(torch.randn(3, device=device).cpu(), first)


def test_numbers_leave_the_device_only_by_way_of_the_cpu(device):
    with pytest.raises((TypeError, RuntimeError)):
        points()[1].numpy()
    with pytest.raises((TypeError, RuntimeError)):
        np.asarray(points()[1])


def test_float64_is_refused_where_there_is_none(device):
    x, x_there = points()
    if devices.has_double(device):
        assert devices.double(x_there).device == DEVICE
        return
    for make in (
        lambda: x_there.double(),
        lambda: x.double().to(device),
        lambda: torch.zeros(2, dtype=torch.float64, device=device),
    ):
        with pytest.raises(TypeError, match="float64"):
            make()
    assert devices.double(x_there).is_cpu


def test_the_accelerator_is_found_whatever_its_make(device):
    assert devices.accelerator().type == device.type


# Processes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradient", ["adjoint", "autograd"])
def test_bound_and_both_of_its_gradients_are_those_of_the_cpu(gradient, device):
    (here, there), (x, x_there) = pair("DiffFlow"), points()
    noise = torch.randn(3, *x.shape)
    bound = here.bound(x, noise, gradient=gradient)
    bound.sum().backward()
    bound_there = there.bound(x_there, noise.to(device), gradient=gradient)
    bound_there.sum().backward()
    same(bound_there, bound)
    same_gradients(there, here)


def test_the_joint_loss_and_its_gradient_are_those_of_the_cpu(device):
    (here, there), (x, x_there) = pair("DiffFlow"), points()
    noise = torch.randn(3, *x.shape)
    here.loss(x, noise).backward()
    there.loss(x_there, noise.to(device)).backward()
    same_gradients(there, here)


@every
def test_every_process_trains_encodes_and_samples_on_the_device(name, device):
    (here, there), (x, x_there) = pair(name), points()
    there.loss(x_there).backward()
    assert all(p.grad.device == p.device for p in there.parameters() if p.grad is not None)
    if name in ("CNF", "CouplingFlow"):
        same(there.log_prob(x_there), here.log_prob(x))
        same(there.encode(x_there).end, here.encode(x).end)
    times, states = there.encode(x_there, seed=0).to_numpy()
    assert np.isfinite(states).all() and len(times) == len(states)
    assert there.sample(3, seed=0).start.device == DEVICE


@chains
def test_the_likelihood_of_a_chain_is_that_of_the_cpu(name, device):
    (here, there), (x, x_there) = pair(name), points()
    same(there.log_prob(x_there, solver=COARSE), here.log_prob(x, solver=COARSE), rtol=1e-4)
    there.log_prob(x_there, seed=0, trace="hutchinson", solver=COARSE)
    ProbabilityFlow(there, gradient="adjoint", solver=COARSE).log_prob(x_there).sum().backward()
    assert ProbabilityFlow(there, solver=COARSE).sample(2, seed=0).start.device == DEVICE


@chains
def test_every_way_home_runs_on_the_device(name, device):
    there, (_, x_there) = pair(name)[1], points()
    for lam in (0.0, 0.5, 1.0):
        assert there.sample(3, seed=0, lam=lam).start.device == DEVICE
    samplers.reverse_sde(there, 3, corrector_steps=1, seed=0)
    sample_family(there, 3, lam=0.5, substeps=2, seed=0)
    fokker_planck_residual(there, lambda y, t: -y.square().sum(1) * (1 + t), x_there, 0.5)
    if name == "DDPM":
        samplers.ddim(there, 3, eta=0.5, seed=0)
        samplers.ddim_encode(there, x_there)
        there.bound_terms(x_there, seed=0)
        there.denoised(x_there, torch.tensor(0.5))
        there.respaced(2).loss(x_there).backward()


@chains
def test_calibration_leaves_its_numbers_on_the_device(name, device):
    there, (_, x_there) = pair(name)[1], points()
    there.calibrate(x_there)
    assert there.log_b_ratio.device == DEVICE and there.log_b_ratio.isfinite().all()


@chains
def test_importance_weights_are_on_the_device(name, device):
    there, (_, x_there) = pair(name)[1], points()
    bounds = path_bounds(there, x_there, 3, seed=0)
    same(importance_weighted(bounds), importance_weighted(bounds.cpu()))
    assert "nats" in repr(three_numbers(there, x_there[:2], 2, seed=0, solver=COARSE))


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule.polynomial(3, flexible=True),
        Schedule.geometric(3),
        Schedule.linear_beta(3),
        Schedule.cosine(3),
        Schedule.euler(torch.linspace(0, 1, 4), 1.0),
    ],
    ids=["flexible", "geometric", "linear_beta", "cosine", "euler"],
)
def test_every_schedule_serves_a_model_on_the_device(schedule, device):
    there, (_, x_there) = DiffFlow.mlp(schedule, **NET).to(device), points()
    there.loss(x_there).backward()
    there.sample(2, seed=0, lam=0.5)
    there.eval().log_prob(x_there, solver=COARSE)


@pytest.mark.parametrize("kind", [DiffFlow, DDPM])
def test_u_nets_train_and_sample_on_the_device(kind, device):
    here = kind.unet(Schedule.log_snr(2), shape=(1, 8, 8), size="tiny")
    there, x = copy.deepcopy(here).to(device), torch.randn(2, 1, 8, 8)
    noise = torch.randn(2, *x.shape)
    here.loss(x, noise).backward()
    there.loss(x.to(device), noise.to(device)).backward()
    for a, b in zip(there.parameters(), here.parameters(), strict=True):
        if b.grad is not None:
            same(a.grad, b.grad, rtol=1e-3, atol=1e-4)
    assert there.sample(1, seed=0).start.device == DEVICE


# What is asked of any process ---------------------------------------------------------------------


@every
def test_particles_are_seeded_one_by_one_kept_at_the_end_and_decoded_on_the_device(name, device):
    there, (_, x_there) = pair(name)[1], points()
    four = there.sample(4, seed=range(4), keep="end", batch=2).start
    same(four[:2], there.sample(2, seed=range(2)).start.cpu(), rtol=1e-4)
    z = there.encode(x_there, seed=range(len(x_there)), keep="end").end
    assert there.decode(z, seed=0, keep="end").start.device == DEVICE
    if isinstance(there, DiffFlow):
        there.bound(x_there, seed=range(len(x_there)))
        there.calibrate(x_there, seed=0)


@pytest.mark.parametrize(
    ("name", "gradient"), [("CNF", "direct"), ("CNF", "adjoint"), ("DiffFlow", "direct")]
)
def test_an_ode_that_chooses_its_steps_is_solved_as_on_the_cpu(name, gradient, device):
    (here, there), (x, x_there) = pair(name), points(4)
    options = {} if name == "CNF" else {"gradient": gradient, "solver": LOOSE, "start": 0.2}
    for model, y in ((here, x), (there, x_there)):
        if name == "CNF":
            model.solver, model.gradient = LOOSE, gradient
        model.log_prob(y, **options).sum().backward()
    for a, b in zip(there.parameters(), here.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if b.grad is not None:
            assert a.grad.isfinite().all()
            # Without float64 a step may be refused that the CPU takes.
            if name == "CNF" or devices.has_double(device):
                same(a.grad, b.grad, rtol=1e-2, atol=1e-3)


@every
def test_a_model_on_the_device_is_saved_and_read_again(name, device, tmp_path):
    there = pair(name)[1]
    there.set_standardisation(mean=1.0, scale=2.0)
    save(there, tmp_path / "model")
    again = load(tmp_path / "model").to(device)
    for key, value in there.state_dict().items():
        assert torch.equal(again.state_dict()[key].cpu(), value.cpu()), key
    assert again.sample(2, seed=0).start.device == DEVICE


# Measures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", toy.names())
def test_a_density_measures_points_of_the_device_as_those_of_the_cpu(name, device):
    density = toy.load(name)
    x = density.sample(5, seed=0)
    for ask in (density.log_prob, density.mode, density.leaked, density.distance):
        same(ask(x.to(device)), ask(x))
    same(sm.exact_score(density, x.to(device)), sm.exact_score(density, x), rtol=1e-4)
    same(sm.smoothed_score(density, x.to(device), 0.3), sm.smoothed_score(density, x, 0.3))
    assert metrics.leak(x.to(device), density) == metrics.leak(x, density)


def test_score_matching_runs_on_the_device(device):
    x, x_there = points()
    same(sm.smoothed_score(x, x_there, 0.3), sm.smoothed_score(x, x, 0.3))
    same(sm.implicit_score_matching(lambda y, t: -y, x_there),
         sm.implicit_score_matching(lambda y, t: -y, x))  # fmt: skip
    sm.explicit_score_matching(lambda y, t: -y, x_there, -x_there)
    sm.sliced_score_matching(lambda y, t: -y, x_there, seed=0)
    sm.denoising_score_matching(lambda y, t: -y, x_there, 0.1)
    langevin(lambda y, t: -y, x_there, step=0.1, steps=2, seed=0)
    if devices.has_double(device):
        theorem_one(lambda y, t: -y, x_there.double(), steps=[2], g=[0.1])


def test_distances_of_samples_on_the_device_are_those_of_the_cpu(device):
    density = toy.load("olympic_rings")
    x = density.sample(300, seed=0)
    y, modes = x + 0.1, density.mode(x)
    for measure in (metrics.sliced_w2, metrics.energy_distance, fid.frechet_distance):
        assert measure(x.to(device), y.to(device)) == pytest.approx(measure(x, y), rel=1e-6)
    assert metrics.mode_survival(x.to(device), modes.to(device)) == metrics.mode_survival(x, modes)
    assert metrics.crossing_leak(x.to(device), density) == metrics.crossing_leak(x, density)
    assert metrics.w2_to_normal(x.to(device)) == pytest.approx(metrics.w2_to_normal(x))


@every
def test_a_model_on_the_device_is_evaluated(name, device, monkeypatch):
    few = Solver("rk4", steps=1)
    monkeypatch.setattr("diffflow_edu.processes.likelihood.Solver", lambda **_: few)
    there, density = pair(name)[1], toy.load("olympic_rings")
    metrics.evaluate_latent(there, density, n=20)
    if name != "NCSN":
        state = devices.rng_state(device)
        found = metrics.evaluate(there, density, n=20, log_prob_n=2)
        assert np.isfinite(found["log_prob"])
        assert torch.equal(devices.rng_state(device), state)


# Training -----------------------------------------------------------------------------------------


def stand_in(device):
    """What `fit` and `train` use of accelerate's Accelerator."""
    return SimpleNamespace(
        device=device, mixed_precision="no", num_processes=1, process_index=0,
        is_main_process=True, autocast=nullcontext, wait_for_everyone=lambda: None,
    )  # fmt: skip


@every
def test_every_process_is_fitted_on_the_device(name, device):
    there = MAKE[name]().to(device)
    before = devices.rng_state(device)
    history = fit(there, toy.load("olympic_rings"), steps=2, batch_size=8)
    assert np.isfinite(history.loss).all()
    assert torch.equal(devices.rng_state(device), before)
    assert all(p.device == DEVICE for p in there.parameters())


@every
def test_a_model_on_the_device_keeps_the_best_weights_and_the_units_of_its_data(name, device):
    there, (x, x_there) = MAKE[name]().to(device), points(40)
    history = fit(
        there, 3 * x + 5, steps=2, batch_size=8, standardise=True,
        validation=3 * x_there + 5, validate_every=1, patience=2,
    )  # fmt: skip
    assert np.isfinite(history.loss).all() and there.standardised
    assert there.data_scale.device == DEVICE
    there.loss(3 * x_there + 5).backward()
    assert there.sample(2, seed=0).start.device == DEVICE


@chains
def test_a_model_by_class_learns_and_draws_on_the_device(name, device):
    kind = {"DiffFlow": DiffFlow, "DDPM": DDPM}[name]
    here = kind.mlp(GRID, classes=5, **NET)
    for p in here.parameters():
        p.data = p.data + 0.1 * torch.randn(p.shape)
    there, (x, x_there) = copy.deepcopy(here).to(device), points()
    label, noise = torch.tensor([0, 1, 2, 3, 4, 5]), torch.randn(3, *x.shape)
    here.loss(x, noise, label=label).backward()
    there.loss(x_there, noise.to(device), label=label.to(device)).backward()
    same_gradients(there, here)
    there.loss(x_there, label=label).backward()
    there.eval()
    for given in (label, label.to(device), 3):
        path = there.sample(6, seed=0, label=given, guidance=1.0, batch=4)
        assert path.start.device == DEVICE
    there.calibrate(x_there, label=label)
    path_bounds(there.given(label), x_there, 2, seed=0)
    there.log_prob(x_there, label=label, guidance=1.0, solver=COARSE)
    density = toy.load("olympic_rings")
    held = list(zip(*density.sample_labelled(8, seed=0), strict=True))
    fit(there, density, steps=2, batch_size=8, labels=True, validation=held)
    fit(there, x_there, steps=2, batch_size=8, labels=label.to(device))
    assert all(p.device == DEVICE for p in there.parameters())


def test_an_accelerator_moves_the_model_to_its_device(device):
    model = MAKE["DiffFlow"]()
    x, seen = points(20)[0], []
    fit(
        model, x, steps=2, warm_start=1, batch_size=8, optimizer="muon",
        accelerator=stand_in(device), callback=lambda step, m: seen.append(step),
    )  # fmt: skip
    assert seen == [0, 1, 2] and all(p.device == DEVICE for p in model.parameters())


def test_accelerate_s_own_accelerator_trains_on_the_device(device, monkeypatch, tmp_path):
    # It looks for the makes that it knows; ours is put among them. In 32 bits: for 16, autocast
    # needs kernels in C++, which no device made in Python has.
    accelerate = pytest.importorskip("accelerate")
    state = accelerate.state
    monkeypatch.setattr(state.PartialState, "default_device", property(lambda self: device))
    state.AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = accelerate.Accelerator()
        assert accelerator.device == device
        model, x = MAKE["DiffFlow"](), points(20)[0]
        path = tmp_path / "run.pt"
        run = {"batch_size": 8, "accelerator": accelerator, "checkpoint": path}
        fit(model, x, steps=2, **run, validation=x, validate_every=1, standardise=True)
        history = fit(model, x, steps=3, **run, validation=x, validate_every=1, standardise=True)
        assert len(history.loss) == 3 and np.isfinite(history.loss).all()
        assert all(p.device == DEVICE and p.dtype == torch.float32 for p in model.parameters())
    finally:
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_resumed_training_on_the_device_ends_as_if_it_had_not_stopped(
    optimizer, device, tmp_path
):
    def run(path, stop=None):
        torch.manual_seed(1)
        model = MAKE["DiffFlow"]().to(device)

        def callback(step, _):
            if step == stop:
                raise KeyboardInterrupt

        fit(
            model, toy.load("olympic_rings"), steps=3, warm_start=2, batch_size=8,
            optimizer=optimizer, checkpoint=path, checkpoint_every=1, callback=callback,
        )  # fmt: skip
        return model

    whole = run(tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts.pt", stop=3)
    torch.randn(5, device=device)
    parts = run(tmp_path / "parts.pt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value.cpu(), parts.state_dict()[name].cpu()), name


# Figures ------------------------------------------------------------------------------------------


def test_what_a_device_computed_is_played_and_drawn(device):
    density, there, (_, x_there) = toy.load("olympic_rings"), pair("DiffFlow")[1], points()
    path = there.sample(6, seed=0)
    player = play({"rings": path}, color=density.mode, density=density, fields={"rings": there})
    assert player.frames and player.arrows
    flow = pair("CouplingFlow")[1]
    play(flow.encode(x_there))
    play({"flow": flow.encode(x_there)}, grid={"flow": flow})
    figures.film_strip({"rings": path})
    figures.paths(path)
    figures.samples_against_truth(path.start, density, most=50)
    grid = figures.square_grid(cells=2).float().to(device)
    figures.warped_grids({"before": grid, "after": 2 * grid})
    log_prob = lambda x: flow.log_prob(x.to(device))  # noqa: E731
    figures.density_map(log_prob, extent=2.0, resolution=4)
    assert probe({"flow": log_prob}, view=(0, 0, 2), cells=3).maps["flow"].shape == (3, 3)
    terms = pair("DDPM")[1].bound_terms(x_there, seed=0)
    figures.bound_bars({"DDPM": (GRID, terms)})
    plt.close("all")


# Pictures -----------------------------------------------------------------------------------------


def test_pictures_are_drawn_and_measured_on_the_device(device):
    digits = images.load("digits")
    there = digits.to(device)
    y = there.dequantise(there.test[:12], seed=0)
    assert there.sample(2, seed=0).device == there.sample(2).device == y.device == DEVICE
    same(there.quantise(y), digits.test[:12])


def test_features_of_pictures_are_those_of_the_cpu(device):
    net, pictures = fid.feature_net("mnist14"), torch.randn(4, 1, 14, 14)
    found = fid.features(copy.deepcopy(net).to(device), pictures.to(device))
    torch.testing.assert_close(found, fid.features(net, pictures), rtol=1e-4, atol=1e-4)


@pytest.fixture
def few_pictures(monkeypatch):
    for name in ("scale.HELD", "scale.CALIBRATION", "evaluation.CALIBRATION"):
        monkeypatch.setattr(f"diffflow_edu.{name}", 4)
    monkeypatch.setattr("diffflow_edu.scale.END", 20)


def test_the_benchmark_of_a_gpu_runs_on_the_device(device, tmp_path, monkeypatch, few_pictures):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it has none
    trainings = {"digits-diffflow-2": gpu.MINIATURE.trainings["digits-diffflow-2"]}
    plan = replace(gpu.MINIATURE, trainings=trainings)
    found = gpu.day(plan, device, tmp_path, tmp_path / "out", accelerator=stand_in(device))
    assert gpu.wrong(found) == []
    assert found["trainings"]["digits-diffflow-2"]["rows"][-1]["finished"]


def test_a_run_on_images_trains_is_looked_at_and_evaluated_on_the_device(
    device, tmp_path, monkeypatch, few_pictures
):
    config = Config(
        images="digits", size="tiny", steps=(2,), updates=2, batch_size=2, by_class=True
    )
    model = train(config, tmp_path / "run", look_every=1, accelerator=stand_in(device))
    net = fid.LeNet(8).eval()
    net.card, net.sha256 = {"floor_images": 0}, ""
    monkeypatch.setattr("diffflow_edu.fid.feature_net", lambda name: net)
    monkeypatch.setattr(
        "diffflow_edu.processes.likelihood.Solver", lambda **_: Solver("rk4", steps=1)
    )
    rows = evaluate(model.to(device), images.load("digits"), n=2, ode_n=1, fid_n=2, batch=2)
    assert len(rows) == 1 and np.isfinite([rows[0].bits_per_dim, rows[0].ode, rows[0].fid]).all()
    weights = tmp_path / "run" / "model.safetensors"
    # The command line, which looks for the accelerator by itself.
    monkeypatch.setattr("diffflow_edu.devices.accelerator", lambda: device)
    cli.evaluate(weights, n=2, ode_n=1, fid_n=2)
    told = json.loads(weights.with_suffix(".json").read_text("utf-8"))["rows"][0]
    assert np.isfinite([told["bits_per_dim"], told["ode"], told["fid"]]).all()
    cli.sample(weights, tmp_path / "sheet.png", n=4)
    assert (tmp_path / "sheet.png").exists()
