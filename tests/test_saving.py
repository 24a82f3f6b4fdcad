"""Any model goes into a file and comes back: the same numbers, and nothing that runs code."""

import json
import sys
from types import ModuleType

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

from diffflow_edu import CNF, DDPM, NCSN, CouplingFlow, DiffFlow, Schedule, load, pretrained, save
from diffflow_edu.nets import MLP, NoisePrediction, ResidualMLP
from diffflow_edu.processes.ddpm import no_drift
from diffflow_edu.processes.ode import Solver
from diffflow_edu.unet import Size
from diffflow_edu.zoo import WeightsError

TIMES = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=torch.float64)
SCHEDULES = {
    "log_snr": Schedule.log_snr(4, r_min=0.1),
    "linear_beta": Schedule.linear_beta(4),
    "cosine": Schedule.cosine(4),
    "geometric": Schedule.geometric(4),
    "euler": Schedule.euler(TIMES, torch.tensor([0.3, 0.4, 0.5, 0.6])),
    "respaced": Schedule.linear_beta(9).respaced(4),
    "flexible": Schedule.polynomial(4, flexible=True),
}
TINY = Size(channels=8, factors=(1, 2), blocks=1, attention=(1,))


def two_mlps(schedule, **options):
    return DiffFlow.mlp(schedule, hidden=8, learn_backward_std=True, **options)


def residual():
    schedule = Schedule.log_snr(3, r_min=0.1)
    score = NoisePrediction(ResidualMLP(3, hidden=8), schedule.noise_process)
    return DiffFlow(ResidualMLP(3, hidden=8, zero_init=True), score, schedule)


def tied():
    net = MLP(2, hidden=8)
    other = MLP(2, hidden=8)
    other.last.weight = net.last.weight
    return DiffFlow(net, other, SCHEDULES["log_snr"])


def of_both():
    net = MLP(2, hidden=8)
    return DiffFlow(net, net, SCHEDULES["log_snr"])


def standardised():
    model = two_mlps(SCHEDULES["log_snr"])
    model.set_standardisation(torch.tensor([3.0, -1.0]), 2.5)
    return model


def half_frozen():
    model = two_mlps(SCHEDULES["log_snr"])
    model.drift.requires_grad_(False)
    return model


def on_other_times():
    model = DDPM.mlp(Schedule.linear_beta(9), hidden=8).respaced(3, variance="posterior")
    model.taught = Schedule.linear_beta(9).times
    return model


MODELS = {
    **{name: lambda s=schedule: two_mlps(s) for name, schedule in SCHEDULES.items()},
    "smooth": lambda: two_mlps(SCHEDULES["log_snr"], smooth=True),
    "smooth euler": lambda: two_mlps(SCHEDULES["euler"], smooth=True),
    "in 64 bits": lambda: two_mlps(SCHEDULES["log_snr"]).double(),
    "three dimensions": lambda: two_mlps(SCHEDULES["log_snr"], dim=3),
    "residual": residual,
    "tied": tied,
    "one net": of_both,
    "frozen": half_frozen,
    "standardised": standardised,
    "pictures": lambda: DiffFlow.unet(SCHEDULES["log_snr"], (1, 8, 8), TINY),
    "DDPM of pictures": lambda: DDPM.unet(SCHEDULES["log_snr"], (1, 8, 8), "tiny"),
    "no drift": lambda: DiffFlow(no_drift, MLP(2, hidden=8), SCHEDULES["linear_beta"]),
    **{
        p: lambda p=p: DDPM.mlp(SCHEDULES["cosine"], hidden=8, prediction=p)
        for p in ("noise", "x0", "v")
    },
    "score": lambda: DDPM(MLP(2, hidden=8), SCHEDULES["log_snr"], prediction="score"),
    "taught": on_other_times,
    "CNF": lambda: CNF.mlp(hidden=8, solver=Solver("rk4", steps=3), frames=5, kinetic=0.1),
    "coupling": lambda: CouplingFlow(layers=3, hidden=8),
    "uneven": lambda: CouplingFlow(dim=5, layers=3, hidden=8, uneven=True),
    "NCSN": lambda: NCSN.mlp(levels=3, hidden=8, langevin_steps=2, langevin_step=0.3),
}


def made(make):
    """A model with weights of its own."""
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def numbers(model):
    """What the model says of data, how it samples and how it encodes."""
    like = next(model.parameters())
    x = torch.randn(3, *model.shape, generator=torch.Generator().manual_seed(1)).to(like)
    torch.manual_seed(2)
    said = [model.sample(3, seed=0).states, model.encode(x, seed=1).states]
    if not isinstance(model, NCSN):
        said.append(model.bound(x))
        if x.ndim == 2 and not (isinstance(model, DiffFlow) and model.drift is model.score):
            said.append(model.log_prob(x))
    return [value.detach() for value in said]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_bit_for_bit(name, tmp_path):
    model = made(MODELS[name])
    before = torch.get_rng_state()
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    save(again, tmp_path / "again.safetensors")
    assert _content(tmp_path / "again.safetensors")[0] == _content(tmp_path / "m.safetensors")[0]
    assert type(again) is type(model) and not again.training
    assert again.shape == model.shape
    for ours, theirs in zip(numbers(model), numbers(again), strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    trained = {n: p.requires_grad for n, p in model.named_parameters()}
    assert {n: p.requires_grad for n, p in again.named_parameters()} == trained
    size = sum(v.numel() * v.element_size() for v in model.state_dict().values())
    assert (tmp_path / "m.safetensors").stat().st_size < 1.1 * size + 16_000


def _content(path):
    with safe_open(path, framework="pt") as file:
        plan = json.loads(file.metadata()["diffflow_edu"])
        return plan, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_comes_back_to_the_last_bit(name, tmp_path):
    model = made(lambda: two_mlps(SCHEDULES[name]))
    save(model, tmp_path / "m.safetensors")
    ours, theirs = model.schedule, load(tmp_path / "m.safetensors").schedule
    for part in ("times", *"khseb", "e_ode"):
        assert torch.equal(getattr(ours, part), getattr(theirs, part))
    t = torch.linspace(0.01, float(ours.times[-1]), 7, dtype=torch.float64)
    for part in ("alpha", "sigma", "linear", "gain", "g"):
        found = (getattr(s.noise_process, part)(t) for s in (ours, theirs))
        assert torch.equal(*found)
    drawn = []
    for schedule in (ours, theirs):
        torch.manual_seed(3)
        drawn.append(schedule.draw().times)
    assert torch.equal(*drawn)


def test_ties_hold_when_training_goes_on(tmp_path):
    save(made(tied), tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert again.drift.last.weight is again.score.last.weight
    save(made(of_both), tmp_path / "one.safetensors")
    again = load(tmp_path / "one.safetensors")
    assert again.drift is again.score


def test_a_net_and_its_chain_share_one_noise_process_as_before(tmp_path):
    save(made(lambda: DDPM.mlp(SCHEDULES["euler"], hidden=8)), tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert again.score.noise_process is again.schedule.noise_process
    assert again.on(again.schedule).schedule is again.schedule  # known to be of the same SDE


def test_card_and_taught_times_go_along(tmp_path):
    model = made(on_other_times)
    model.card = {"data": "rings", "seeds": [1, 2]}
    save(model, tmp_path / "m.safetensors")
    again = load(str(tmp_path / "m.safetensors"))
    assert again.card == model.card and torch.equal(again.taught, model.taught)
    model.card = {"data": torch.zeros(2)}
    with pytest.raises(ValueError, match="card must be a dict that JSON can hold"):
        save(model, tmp_path / "other.safetensors")


def test_what_comes_with_the_package_is_loaded_and_saved_too(tmp_path):
    from diffflow_edu import zoo

    shipped = pretrained("diffflow", "four_rings", steps=5)
    again = load(zoo.FOLDER / "diffflow-four_rings-5.safetensors")
    assert again.card == shipped.card
    save(shipped, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    assert again.card == shipped.card
    assert torch.equal(again.sample(5, seed=0).states, shipped.sample(5, seed=0).states)
    with pytest.raises(WeightsError, match=r"no card; diffflow_edu.load reads it"):
        zoo.load(tmp_path / "m.safetensors")


def test_no_file_is_written_over_unless_it_is_said(tmp_path):
    path = tmp_path / "m.safetensors"
    save(made(MODELS["coupling"]), path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"m.safetensors exists; overwrite=True replaces it"):
        save(made(MODELS["CNF"]), path)
    assert path.read_bytes() == before
    save(made(MODELS["CNF"]), path, overwrite=True)
    assert isinstance(load(path), CNF)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(2, 2), "model must be one of DiffFlow, DDPM, CNF, .*got Linear"),
        (DiffFlow(lambda x, t: -x, MLP(2, 8), SCHEDULES["log_snr"]), "drift is <function .*pickle"),
        (DDPM(lambda x, t: -x, SCHEDULES["log_snr"]), "score.net is <function .*nn.Module"),
    ],
)
def test_what_a_file_cannot_hold_is_refused_and_nothing_is_written(tmp_path, model, message):
    with pytest.raises(ValueError, match=message):
        save(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_net_whose_layers_were_replaced_is_refused_when_it_is_saved(tmp_path):
    model = made(MODELS["log_snr"])
    model.drift.last = nn.Linear(8, 2, bias=False)
    with pytest.raises(ValueError, match="cannot be made again .*Was a layer replaced"):
        save(model, tmp_path / "m.safetensors")


# Nets of your own ---------------------------------------------------------------------------------


class Own(nn.Module):
    """A field with a size, that says how it was made."""

    imported = 0

    def __init__(self, width, name="own"):
        super().__init__()
        type(self).imported += 1
        self.config = {"width": width, "name": name}
        self.net = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, x, t):
        return self.net(x) * t


class Silent(Own):
    """One that does not say."""

    def __init__(self):
        super().__init__(4)
        del self.config


@pytest.fixture
def elsewhere(monkeypatch):
    """The module that the classes are found in."""
    module = ModuleType("elsewhere")
    for kind in (Own, Silent):
        setattr(module, kind.__name__, kind)
        monkeypatch.setattr(kind, "__module__", "elsewhere")
    monkeypatch.setitem(sys.modules, "elsewhere", module)


@pytest.mark.usefixtures("elsewhere")
def test_own_nets_come_back_as_they_are_passed_in_or_by_their_import_path(tmp_path):
    path = tmp_path / "m.safetensors"
    model = made(lambda: DDPM(Own(5), SCHEDULES["log_snr"]))
    save(model, path)
    calls = Own.imported
    with pytest.raises(WeightsError, match=r"elsewhere:Own: make it and pass .*score=…\), or pass"):
        load(path)
    assert Own.imported == calls  # and nothing has run
    own = Own(5)
    for again in (load(path, trust=True), load(path, score=own)):
        for ours, theirs in zip(numbers(model), numbers(again), strict=True):
            assert torch.equal(ours, theirs)
    assert again.score.net is own
    with pytest.raises(WeightsError, match="size mismatch"):
        load(path, score=Own(6))
    with pytest.raises(ValueError, match="drift in .* is not a module of yours"):
        load(path, score=Own(5), drift=Own(5))
    with pytest.raises(ValueError, match="score must be an nn.Module, got function"):
        load(path, score=lambda x, t: x)


@pytest.mark.usefixtures("elsewhere")
def test_a_net_that_does_not_say_how_it_was_made_must_be_passed_in(tmp_path):
    path = tmp_path / "m.safetensors"
    model = made(lambda: CNF(Silent(), frames=3))
    save(model, path)
    with pytest.raises(WeightsError, match=r"elsewhere:Silent, had no `config` .*drift=…"):
        load(path, trust=True)
    again = load(path, drift=Silent())
    assert torch.equal(again.sample(3, seed=0).states, model.sample(3, seed=0).states)


# Hostile files ------------------------------------------------------------------------------------


def spoilt(plan, tensors, path, **changes):
    """A file whose plan is changed: {"arguments.drift.arguments.hidden": 9} goes that deep."""
    plan = json.loads(json.dumps(plan))
    for where, value in changes.items():
        part = plan
        *way, last = where.split(".")
        for step in way:
            part = part[step]
        part[last] = value
    content = safetensors.torch.save(tensors, metadata={"diffflow_edu": json.dumps(plan)})
    path.write_bytes(content)


DEEP = "arguments.drift.arguments"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{DEEP}.hidden": 10**9}, "hidden is 1000000000, and the file holds"),
        ({f"{DEEP}.hidden": 9_000}, "size mismatch"),
        ({f"{DEEP}.depth": 10**9}, "depth is 1000000000"),
        ({f"{DEEP}.depth": "3"}, "depth must be a whole number"),
        ({f"{DEEP}.dim": 1e300}, "dim must be a whole number"),
        ({f"{DEEP}.wide": 3}, "unexpected keyword"),
        ({DEEP: []}, ""),
        ({"arguments.drift.is": "system"}, "'system' is missing or unknown"),
        ({"arguments.drift": 3}, "drift must be callable"),
        ({"arguments.drift": {"is": "own", "class": "os:system", "arguments": {}}}, "os:system"),
        ({"arguments.schedule": None}, "schedule must be a Schedule"),
        ({"arguments.schedule.arguments.k": 7}, "k must hold one number a step"),
        ({"arguments": None}, ""),
        ({"kind": "Process"}, "kind must be one of DiffFlow"),
        ({"version": 2}, "version 2 of the format"),
        ({"tied": {"drift.last.weight": "nothing"}}, "'nothing' is missing"),
        ({"frozen": 3}, "not iterable"),
        ({"shapes": [[-1], None]}, "shape must be a whole number"),
    ],
    ids=str,
)
def test_a_file_that_is_wrong_is_named_with_what_is_wrong_in_it(tmp_path, changes, message):
    path = tmp_path / "m.safetensors"
    save(made(MODELS["log_snr"]), path)
    plan, tensors = _content(path)
    spoilt(plan, tensors, path, **changes)
    with pytest.raises(WeightsError, match=rf"weights file .*m.safetensors cannot .*{message}"):
        load(path)


def test_a_file_that_lacks_numbers_or_is_cut_is_named(tmp_path):
    path = tmp_path / "m.safetensors"
    save(made(MODELS["log_snr"]), path)
    whole = path.read_bytes()
    plan, tensors = _content(path)
    for name in ("state/drift.last.weight", "buffer/drift.x_frequencies", "value/0"):
        spoilt(plan, {k: v for k, v in tensors.items() if k != name}, path)
        with pytest.raises(WeightsError, match="m.safetensors cannot be used"):
            load(path)
    for kept in (0, 7, 200, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(WeightsError, match="m.safetensors cannot be used"):
            load(path)
    with pytest.raises(WeightsError, match=r"does not exist. Did you mean .*/m.safetensors\?"):
        load(tmp_path / "n.safetensors")
