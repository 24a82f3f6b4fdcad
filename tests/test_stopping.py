"""A training that is stopped in the middle of a step: nothing of the step is left."""

import pytest
import torch
from torch import nn

from diffflow_edu import DDPM, DiffFlow, Schedule, fit
from diffflow_edu.checkpoints import previous_of
from diffflow_edu.stopping import Stopped, asking

X = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
RUN = {"steps": 4, "warm_start": 1, "batch_size": 8, "checkpoint_every": 100}


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")


class Counted(nn.Module):
    """A field that counts, in a buffer, how often it was evaluated in training mode."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(2, 2))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x, t):
        if self.training:
            self.calls += 1
        return x @ self.weight


def model():
    torch.manual_seed(0)
    return DiffFlow(Counted(), Counted(), Schedule.log_snr(3, r_min=0.1), learn_backward_std=True)


def calls(chain):
    return int(chain.drift.calls + chain.score.calls)


def same(a, b):
    """Whether what two checkpoints hold is equal, to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key != "seconds")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def load(path):
    return torch.load(path, weights_only=True)


def test_a_step_that_is_given_up_leaves_no_trace_wherever_on_the_path_it_stood(tmp_path):
    whole = model()
    expected = fit(whole, X, **RUN)
    assert calls(whole) == 3 + 4 * (3 + 4 + 3)  # the warm start, then N = 3 there and back
    completed = tmp_path / "completed.pt"
    fit(model(), X, **RUN, checkpoint=completed, callback=lambda step, m: step == 2)
    for number in range(10):  # stopped at every place of step 3, the first included
        path, chain = tmp_path / f"{number}.pt", model()
        most = 3 + 2 * 10 + number
        history = fit(chain, X, **RUN, checkpoint=path, stop=lambda: calls(chain) == most)  # noqa: B023
        assert len(history.loss) == 3
        # Not one evaluation more was made than before the question; and its count was taken back.
        assert same(load(path), load(completed))
        again = model()
        assert fit(again, X, **RUN, checkpoint=path).loss == expected.loss
        for name, value in whole.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name


def test_a_first_step_that_is_given_up_leaves_the_model_as_it_was_and_no_file(tmp_path):
    chain = model()
    before = {name: value.clone() for name, value in chain.state_dict().items()}
    random = torch.get_rng_state()
    history = fit(chain, X, **RUN, checkpoint=tmp_path / "run.pt", stop=lambda: calls(chain) == 0)
    assert history.loss == [] and same(dict(chain.state_dict()), before)
    assert torch.equal(torch.get_rng_state(), random) and not (tmp_path / "run.pt").exists()


def test_batches_that_are_accumulated_are_given_up_together(tmp_path):
    run = RUN | {"accumulate": 3, "warm_start": 0, "steps": 2}
    whole, path, chain = model(), tmp_path / "run.pt", model()
    expected = fit(whole, X, **run)
    fit(chain, X, **run, checkpoint=path, stop=lambda: calls(chain) == 45)  # in batch 2 of step 2
    assert load(path)["step"] == 1
    assert fit(model(), X, **run, checkpoint=path).loss == expected.loss


def test_the_first_checkpoint_comes_early_and_goes_when_the_next_is_there(tmp_path):
    path, seen = tmp_path / "run.pt", []

    def look(step, chain):  # before the checkpoint of this step
        seen.append(load(path)["step"] if path.exists() else 0)

    chain = DDPM.mlp(Schedule.log_snr(2), hidden=8)
    fit(chain, X, steps=24, batch_size=4, checkpoint=path, checkpoint_every=12, callback=look)
    assert seen == [0] + 9 * [1] + 2 * [10] + 12 * [12]
    assert load(path)["step"] == 24 and load(previous_of(path))["step"] == 12
    assert not previous_of(path, 2).exists()


def test_parts_of_a_network_are_asked_and_compiled_ones_not_looked_into():
    asked = []
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.SiLU()), nn.Linear(2, 2))
    with asking(net, lambda: asked.append(1)):
        net(X)
    assert len(asked) == 3  # the whole, and each of its two parts
    net[0]._compiled_call_impl = net[0].forward
    with asking(net, lambda: asked.append(1)):
        net(X)
    assert len(asked) == 3 + 2
    with pytest.raises(Stopped), asking(net, lambda: True):
        net(X)
    net(X)  # afterwards nothing is asked


def test_a_stop_that_cannot_be_called_is_refused():
    with pytest.raises(ValueError, match=r"stop must be callable as stop\(\), got 3"):
        fit(model(), X, steps=1, stop=3)
