"""How many checkpoints are kept, and which one is used when some cannot be read."""

import re

import pytest
import torch

from diffflow_edu import DiffFlow, Schedule, fit, toy
from diffflow_edu.checkpoints import CheckpointError, previous_of

DENSITY = toy.load("eight_gaussians", width=0.2)
RUN = {"steps": 8, "batch_size": 8, "checkpoint_every": 1}


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")


def small(seed=0):
    torch.manual_seed(seed)
    return DiffFlow.mlp(Schedule.log_snr(steps=3, r_min=0.1), hidden=8)


def weights(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def steps_kept(folder):
    """By file name, the training step that each checkpoint is of."""
    return {p.name: torch.load(p, weights_only=True)["step"] for p in sorted(folder.iterdir())}


def stop_after(steps):
    return lambda step, _: step + 1 == steps


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_the_newest_so_many_checkpoints_are_kept(tmp_path, keep):
    fit(small(), DENSITY, **RUN, checkpoint=tmp_path / "run.pt", checkpoint_keep=keep)
    names = ["run.pt", "run.pt.previous", "run.pt.previous-2", "run.pt.previous-3"]
    assert steps_kept(tmp_path) == {names[back]: 8 - back for back in range(keep)}


def test_when_fewer_are_to_be_kept_the_oldest_go(tmp_path):
    path = tmp_path / "run.pt"
    fit(small(), DENSITY, **RUN, checkpoint=path, checkpoint_keep=4, callback=stop_after(6))
    fit(small(), DENSITY, **RUN, checkpoint=path, checkpoint_keep=2, callback=stop_after(7))
    assert steps_kept(tmp_path) == {"run.pt": 7, "run.pt.previous": 6}


@pytest.mark.parametrize("spoilt", [1, 2, 3])
def test_the_newest_that_is_whole_is_used_and_every_other_named(tmp_path, spoilt):
    whole = small()
    expected = fit(whole, DENSITY, **RUN)
    path = tmp_path / "run.pt"
    fit(small(), DENSITY, **RUN, checkpoint=path, checkpoint_keep=4, callback=stop_after(6))
    files = [path, *(previous_of(path, back) for back in (1, 2, 3))]
    for file in files[:spoilt]:
        file.write_bytes(file.read_bytes()[:-300])
    model = small(seed=5)
    with pytest.warns(UserWarning) as said:
        history = fit(model, DENSITY, **RUN, checkpoint=path, checkpoint_keep=4)
    messages = [str(w.message) for w in said if "cannot be read" in str(w.message)]
    for message, bad, used in zip(messages, files[:spoilt], files[1:], strict=False):
        assert re.search(f"{re.escape(str(bad))} cannot be read, it may be truncated", message)
        assert message.endswith(f"Going on from {used}.")
    assert len(messages) == spoilt
    assert history.loss == expected.loss and torch.equal(weights(model), weights(whole))


def test_where_none_is_whole_the_last_is_named_and_nothing_is_trained(tmp_path):
    path = tmp_path / "run.pt"
    fit(small(), DENSITY, **RUN, checkpoint=path, checkpoint_keep=3)
    for file in list(tmp_path.iterdir()):
        file.write_bytes(file.read_bytes()[:100])
    message = f"{re.escape(str(previous_of(path, 2)))} cannot be read.*Delete"
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match=message):
        fit(small(), DENSITY, **RUN, checkpoint=path, checkpoint_keep=3)


def test_a_number_to_keep_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="checkpoint_keep must be a whole number, 1 or more"):
        fit(small(), DENSITY, steps=1, checkpoint=tmp_path / "run.pt", checkpoint_keep=0)
