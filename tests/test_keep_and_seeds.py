"""How every process carries particles: what is kept, in what batches, by whose noise, from where.

References: the process itself, asked in another way, to the last bit where it is the same
arithmetic; the size of a file; the noise that went in.
"""

from __future__ import annotations

import inspect
import io

import pytest
import torch

from diffflow_edu import CNF, DDPM, CouplingFlow, DiffFlow, Schedule
from diffflow_edu.processes import NCSN
from diffflow_edu.processes.langevin import langevin
from diffflow_edu.processes.likelihood import ProbabilityFlow, sample_family
from diffflow_edu.processes.ode import Solver
from diffflow_edu.processes.samplers import ddim, ddim_encode, reverse_sde
from diffflow_edu.processes.walk import Normals
from tests.test_every_process import FLOWS, MAKERS, STEPS, WITH_BOUND, make, points

CHAINS = ("DiffFlow on log-SNR", "DiffFlow, the paper's grid", "DDPM on log-SNR", "DDPM, linear")
EXACT = 1e-5  # float32, sums in another order
ODE = 1e-3  # an adaptive solver chooses its steps, of errors of 1e-5, by all that it carries


def fixed_steps() -> CNF:
    torch.manual_seed(0)
    return CNF.mlp(hidden=16, frames=STEPS, solver=Solver("rk4", steps=4)).eval()


def flow_of_a_chain() -> ProbabilityFlow:
    return ProbabilityFlow(make("DDPM on log-SNR"), solver=Solver(rtol=1e-6, atol=1e-6))


PROCESSES = {name: lambda name=name: make(name) for name in MAKERS}
PROCESSES |= {"CNF in fixed steps": fixed_steps, "ProbabilityFlow": flow_of_a_chain}


def chain() -> DDPM:
    return make("DDPM on log-SNR")


SAMPLERS = {name: lambda n, _m=m, **how: _m().sample(n, **how) for name, m in PROCESSES.items()}
SAMPLERS |= {
    "λ = 0": lambda n, **how: chain().sample(n, lam=0.0, **how),
    "λ = 1/2, last noise": lambda n, **how: chain().sample(n, lam=0.5, last_noise=True, **how),
    "ddim": lambda n, **how: ddim(chain(), n, eta=0.5, **how),
    "reverse_sde": lambda n, **how: reverse_sde(chain(), n, **how),
    "sample_family": lambda n, **how: sample_family(chain(), n, substeps=2, **how),
    "langevin": lambda n, **how: langevin(lambda x, t: -x, points(20, 2)[:n], 0.1, 6, **how),
    "langevin, every": lambda n, **how: langevin(
        lambda x, t: -x, points(20, 2)[:n], 0.1, 6, every=3, **how
    ),
}
every_sampler = pytest.mark.parametrize("sample", SAMPLERS.values(), ids=SAMPLERS)
every_process = pytest.mark.parametrize("maker", PROCESSES.values(), ids=PROCESSES)


def is_ode(request: pytest.FixtureRequest) -> bool:
    name = request.node.callspec.id
    return "CNF" in name or "ProbabilityFlow" in name


# What is kept ------------------------------------------------------------------------------------


@every_sampler
def test_keeping_the_ends_alone_changes_no_bit_of_them(sample):
    path, ends = sample(20, seed=3), sample(20, seed=3, keep="end")
    assert len(ends) == 2 and ends.states.shape == (2, 20, 2)
    assert torch.equal(ends.times, path.times[[0, -1]])
    assert torch.equal(ends.start, path.start) and torch.equal(ends.end, path.end)


@every_sampler
@pytest.mark.parametrize("keep", ["all", "end"])
def test_the_batch_changes_a_sample_by_rounding_alone(sample, keep, request):
    tolerance = ODE if is_ode(request) else EXACT
    whole, parts = (sample(20, seed=3, keep=keep, batch=batch) for batch in (None, 7))
    assert torch.allclose(parts.states, whole.states, atol=tolerance, rtol=tolerance)


@every_process
def test_encode_keeps_and_batches_like_sample(maker, request):
    model, x = maker(), points(20, 2)
    tolerance = ODE if is_ode(request) else EXACT
    path, ends = model.encode(x, seed=3), model.encode(x, seed=3, keep="end")
    assert len(ends) == 2 and torch.equal(ends.times, path.times[[0, -1]])
    assert torch.equal(ends.start, path.start) and torch.equal(ends.end, path.end)
    parts = model.encode(x, seed=3, batch=7)
    assert torch.allclose(parts.states, path.states, atol=tolerance, rtol=tolerance)


def test_ddim_encode_keeps_and_batches_like_encode():
    model, x = chain(), points(20, 2)
    path = ddim_encode(model, x, iterations=2)
    ends = ddim_encode(model, x, iterations=2, keep="end")
    assert torch.equal(ends.states, path.states[[0, -1]])
    parts = ddim_encode(model, x, iterations=2, batch=7)
    assert torch.allclose(parts.states, path.states, atol=EXACT)


def test_a_corrector_takes_one_step_for_all_whatever_the_batch():
    whole, parts = (
        reverse_sde(chain(), 20, corrector_steps=2, seed=3, keep="end", batch=batch)
        for batch in (None, 7)
    )
    assert torch.allclose(parts.states, whole.states, atol=EXACT)


def test_the_ends_of_a_thousand_steps_take_the_memory_of_two_states():
    drift = score = lambda x, t: -x
    model = DiffFlow(drift, score, Schedule.log_snr(1000))
    sizes = [model.sample(50, seed=0, keep=keep).states.untyped_storage().nbytes()
             for keep in ("all", "end")]  # fmt: skip
    assert sizes == [1001 * 50 * 2 * 4, 2 * 50 * 2 * 4]


@every_process
@pytest.mark.parametrize("end", ["start", "end"])
def test_an_end_of_a_path_is_stored_without_the_path(maker, end):
    model, file = maker(), io.BytesIO()
    points = getattr(model.sample(1000, seed=0), end)
    assert points.untyped_storage().nbytes() == 8000
    torch.save(points, file)
    assert file.tell() < 12_000  # 8000 and a header


@pytest.mark.parametrize("keep", ["ends", None, True])
def test_another_keep_is_refused_by_name(keep):
    for model in (make(name) for name in MAKERS):
        with pytest.raises(ValueError, match="keep must be 'all' or 'end'"):
            model.sample(3, keep=keep)


@pytest.mark.parametrize("batch", [0, -1, 2.5])
def test_a_batch_that_is_none_is_refused_by_name(batch):
    for model in (make(name) for name in MAKERS):
        with pytest.raises(ValueError, match="batch must be a whole number"):
            model.sample(3, batch=batch)


# A seed a particle -------------------------------------------------------------------------------


@every_sampler
def test_with_a_seed_each_a_particle_does_not_depend_on_how_many_there_are(sample, request):
    tolerance = ODE if is_ode(request) else EXACT
    many, few = sample(20, seed=range(20)), sample(10, seed=range(10))
    assert torch.allclose(many.states[:, :10], few.states, atol=tolerance, rtol=tolerance)
    batched = sample(20, seed=range(20), keep="end", batch=3)
    assert torch.allclose(batched.start, many.start, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", MAKERS)
def test_with_a_seed_each_encoding_and_the_bound_do_not_depend_on_company(name):
    model, x = make(name), points(20, 2)
    tolerance = ODE if name == "CNF" else EXACT
    many, few = model.encode(x, seed=range(20)), model.encode(x[5:9], seed=range(5, 9))
    assert torch.allclose(many.states[:, 5:9], few.states, atol=tolerance, rtol=tolerance)
    if name.startswith(("D", "Coupling")):
        bounds = model.bound(x, seed=range(20))
        assert torch.allclose(bounds[5:9], model.bound(x[5:9], seed=range(5, 9)), rtol=1e-4)


def test_noise_of_a_seed_each_is_the_same_to_the_last_bit():
    like = torch.empty(0)
    many, few = Normals(range(20), (20, 3, 4), like), Normals([4, 19], (2, 3, 4), like)
    for _ in range(3):
        assert torch.equal(many()[[4, 19]], few())


def test_seeds_come_as_any_sequence_of_whole_numbers():
    model = make("DDPM on log-SNR")
    seeds = torch.tensor([3, 1, 4])
    expected = model.sample(3, seed=[3, 1, 4]).states
    for several in (seeds, seeds.numpy(), (3, 1, 4)):
        assert torch.equal(model.sample(3, seed=several).states, expected)


@pytest.mark.parametrize("name", MAKERS)
def test_another_number_of_seeds_than_of_particles_is_refused(name):
    model = make(name)
    calls = (
        lambda seed: model.sample(4, seed=seed),
        lambda seed: model.encode(points(4, 2), seed=seed),
        lambda seed: model.decode(points(4, 2), seed=seed),
    )
    for call in calls:
        with pytest.raises(ValueError, match="one a particle, 4, got 3"):
            call(range(3))
        with pytest.raises(ValueError, match="seed must be a whole number"):
            call([0, 1, 2, 3.5])


# From given noise --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_given_noise_is_decoded_to_a_path_that_a_seed_decides(name):
    model, z = make(name), points(5, 2)
    path = model.decode(z, seed=1)
    assert path.states.shape == (STEPS + 1, 5, 2)
    assert torch.equal(path.states, model.decode(z, seed=1).states)
    if name != "NCSN":  # whose widest level walks on from it
        assert torch.equal(path.end, z)
    assert torch.equal(model.decode(z, seed=1, keep="end").start, path.start)


@pytest.mark.parametrize("name", CHAINS)
def test_a_sample_is_decoded_again_from_its_noise_without_noise_on_the_way(name):
    model = make(name)
    drawn = model.sample(50, seed=1, lam=0.0)
    assert torch.equal(model.decode(drawn.end, lam=0.0).states, drawn.states)


@pytest.mark.parametrize("prediction", ["noise", "v"])
def test_decoding_without_noise_returns_from_ddim_encode_to_the_data(prediction):
    torch.manual_seed(0)
    model = DDPM.mlp(Schedule.linear_beta(100), hidden=16, prediction=prediction).double().eval()
    x = points(50, 2, dtype=torch.float64)
    z = ddim_encode(model, x, iterations=30).end
    assert torch.allclose(model.decode(z, lam=0.0).start, x, atol=1e-6)


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_whose_drift_and_score_vanish_decodes_by_division(name):
    schedule = make(name).schedule
    model = DiffFlow(lambda x, t: 0 * x, lambda x, t: 0 * x, schedule)
    z = points(5, 2)
    wanted = z / schedule.k.prod().float()
    assert torch.allclose(model.decode(z, lam=0.0).start, wanted, rtol=1e-4)


def test_noise_that_is_none_is_refused_by_name():
    for model in (make(name) for name in MAKERS):
        with pytest.raises(ValueError, match="z must"):
            model.decode([[0.0, 1.0]])


# The same for all --------------------------------------------------------------------------------

LEADING = {
    "bound": ("x",),
    "log_prob": ("x", "seed"),
    "encode": ("x", "seed"),
    "sample": ("n", "seed", "shape"),
    "decode": ("z", "seed"),
}


@pytest.mark.parametrize("method", LEADING)
@pytest.mark.parametrize("kind", [DiffFlow, DDPM, CNF, CouplingFlow, NCSN, ProbabilityFlow])
def test_every_process_is_asked_in_the_same_words(kind, method):
    parameters = list(inspect.signature(getattr(kind, method)).parameters)[1:]
    assert tuple(parameters[: len(LEADING[method])]) == LEADING[method]
    assert "seed" in parameters
    if method in ("encode", "sample", "decode"):
        assert {"keep", "batch"} <= set(parameters)


@pytest.mark.parametrize("name", WITH_BOUND)
@pytest.mark.parametrize("training", [False, True])
def test_a_seed_decides_bound_and_log_prob_and_leaves_the_global_generator_alone(name, training):
    model, x = make(name).train(training), points(5, 2)
    state = torch.get_rng_state()
    assert torch.equal(model.bound(x, seed=3), model.bound(x, seed=3))
    assert torch.equal(model.log_prob(x, seed=3), model.log_prob(x, seed=3))
    if name not in FLOWS:
        assert not torch.equal(model.bound(x, seed=3), model.bound(x, seed=4))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_seed_of_a_bound_takes_the_models_own_grid_and_no_fresh_one():
    model = DiffFlow.mlp(Schedule.polynomial(6, flexible=True), hidden=16).train()
    x, state = points(5, 2), torch.get_rng_state()
    seen = model.bound(x, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(seen, model.eval().bound(x, seed=3))


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("gradient", ["adjoint", "autograd"])
def test_the_seed_of_a_bound_is_that_of_the_path_it_measures(name, gradient):
    model, x = make(name, dtype=torch.float64), points(5, 2, dtype=torch.float64)
    path, c = model.encode(x, seed=3), model.schedule
    noise = [(path[i + 1] - model.forward_mean(path[i], i)) / float(c.s[i]) for i in range(c.steps)]
    wanted = model.bound(x, torch.stack(noise))
    assert torch.allclose(model.bound(x, seed=3, gradient=gradient), wanted, atol=1e-6)


def test_noise_and_seed_of_a_bound_exclude_each_other():
    model = make("DDPM on log-SNR")
    with pytest.raises(ValueError, match="noise and seed both"):
        model.bound(points(5, 2), noise=points(STEPS, 5, 2), seed=0)


# The shape of one particle -----------------------------------------------------------------------

OWN = {
    "DiffFlow": lambda **how: DiffFlow(
        lambda x, t: -x, lambda x, t: -x, Schedule.log_snr(4), **how
    ),
    "DDPM": lambda **how: DDPM(lambda x, t: -x, Schedule.log_snr(4), **how),
    "CNF": lambda **how: CNF(lambda x, t: -x, frames=4, **how),
    "NCSN": lambda **how: NCSN(lambda x, t: -x, levels=4, langevin_steps=1, **how),
}
own_fields = pytest.mark.parametrize("maker", OWN.values(), ids=OWN)


@own_fields
def test_own_fields_have_points_of_the_plane_until_they_are_told_or_see_others(maker):
    model = maker()
    assert model.shape == (2,) and not model.shape_known
    assert model.sample(4, seed=0).start.shape == (4, 2)


@own_fields
def test_own_fields_sample_the_shape_that_they_were_given(maker):
    model = maker(shape=(3, 5))
    assert model.shape_known and model.sample(4, seed=0).start.shape == (4, 3, 5)


@own_fields
@pytest.mark.parametrize("method", ["loss", "encode"])
def test_own_fields_sample_the_shape_of_the_data_they_saw(maker, method):
    model = maker()
    getattr(model, method)(points(8, 3))
    assert model.sample(4, seed=0).start.shape == (4, 3) and not model.shape_known


@own_fields
def test_a_shape_that_is_none_is_refused_by_name(maker):
    for shape in (3, "ab", (0,), (2.5,)):
        with pytest.raises(ValueError, match="shape must"):
            maker(shape=shape)


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_another_schedule_for_the_same_networks_keeps_their_shape(kind):
    schedule, new = Schedule.log_snr(4), Schedule.log_snr(2)
    if kind == "mlp":
        model = DiffFlow.mlp(schedule, dim=3, hidden=16)
    else:
        model = DiffFlow.unet(schedule, (1, 8, 8), "tiny")
    again = DiffFlow(model.drift, model.score, new)
    assert again.shape == model.shape and again.shape_known
    assert again.sample(2, seed=0).start.shape == (2, *model.shape)
    for other in (DDPM.of(model), DDPM.of(model).on(new)):
        assert other.shape == model.shape and other.shape_known
