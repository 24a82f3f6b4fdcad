"""Several processes, several batches a step, and 16 bits: the same training."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from diffflow_edu import DiffFlow, Schedule, fit, toy, zoo
from diffflow_edu.processes.base import Process
from diffflow_edu.unet import Size

accelerate = pytest.importorskip("accelerate", reason="the extra 'images' is not installed")

DENSITY = toy.load("eight_gaussians", width=0.2)


@pytest.fixture(autouse=True)
def silent(monkeypatch):
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")


def small(seed=0):
    torch.manual_seed(seed)
    return DiffFlow.mlp(Schedule.log_snr(steps=3, r_min=0.1), hidden=16, learn_backward_std=True)


def weights(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


COMMON = """
    import os, sys, torch
    os.environ["DIFFFLOW_EDU_PROGRESS"] = "0"
    torch.set_num_threads(1)
    from accelerate import Accelerator
    from diffflow_edu import DiffFlow, Schedule, fit, toy

    accelerator = Accelerator(cpu=True)
    rank, out = accelerator.process_index, sys.argv[1]
    assert accelerator.num_processes == 2
    torch.manual_seed(7 + rank)  # the first process's weights count
    model = DiffFlow.mlp(Schedule.log_snr(steps=3, r_min=0.1), hidden=16, learn_backward_std=True)
"""


def free_port():
    """A free port, and below those that systems hand out: until the two meet there, a server of
    another worker could be given one of these."""
    for port in random.Random(time.time_ns()).sample(range(20_000, 30_000), 100):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)):
                return port
    raise RuntimeError("no port from 20000 to 29999 is free")


def run_two(body, folder):
    """Run a script in two processes that find one another, as `accelerate launch` starts them."""
    script = folder / "script.py"
    # Without the last line a process may end while threads of the group are still at work.
    end = "\naccelerator.end_training()\n"
    script.write_text(textwrap.dedent(COMMON) + textwrap.dedent(body) + end)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder)],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                **address,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)


def test_two_processes_give_the_gradient_of_one_with_the_double_batch(tmp_path):
    # Each process holds half of the rows and of the noise. After one step of plain Adam weights
    # that got the same gradient are the same; the gradients themselves are compared, too.
    run_two(
        """
        from diffflow_edu.parallel import Processes

        processes = Processes(accelerator)
        processes.prepare(model)
        model.double()
        conv = torch.nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
        processes.prepare(conv)  # another layout of the weights
        torch.save(conv.weight, f"{out}/conv-{rank}.pt")
        x = torch.load(f"{out}/x.pt")[rank * 4 : rank * 4 + 4]
        noise = torch.load(f"{out}/noise.pt")[:, rank * 4 : rank * 4 + 4]
        loss = model.loss(x, noise)
        loss.backward()
        parameters = [p for p in model.parameters() if p.requires_grad]
        value = processes.average(parameters, loss.item())
        torch.save((value, [p.grad for p in parameters], model.state_dict()), f"{out}/{rank}.pt")
        """,
        _with_data(tmp_path),
    )
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    one, other = (torch.load(tmp_path / f"conv-{rank}.pt") for rank in range(2))
    assert torch.equal(one, other)
    model = small(seed=7).double()
    x, noise = torch.load(tmp_path / "x.pt"), torch.load(tmp_path / "noise.pt")
    loss = model.loss(x, noise)
    loss.backward()
    expected = [p.grad for p in model.parameters() if p.requires_grad]
    for value, grads, state in found:
        assert value == pytest.approx(loss.item(), rel=1e-12)
        for name, tensor in model.state_dict().items():
            assert torch.equal(state[name], tensor)
        for grad, wanted in zip(grads, expected, strict=True):
            torch.testing.assert_close(grad, wanted, rtol=1e-10, atol=1e-12)


def _with_data(folder):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    torch.save(x, folder / "x.pt")
    torch.save(torch.randn(3, 8, 2, generator=generator, dtype=torch.float64), folder / "noise.pt")
    return folder


def test_two_processes_stay_alike_draw_apart_and_resume_together(tmp_path):
    run_two(
        """
        density = toy.load("eight_gaussians", width=0.2)
        seen = []
        class Watched:
            def sample(self, n, seed=None):
                seen.append(density.sample(n, seed))
                return seen[-1]

        run = dict(steps=6, batch_size=16, accelerator=accelerator)
        whole = fit(model, Watched(), **run)
        again = DiffFlow.mlp(model.schedule, hidden=16, learn_backward_std=True)
        again.load_state_dict(torch.load(f"{out}/start.pt"))
        path = f"{out}/run.pt"
        # One of them is out of time: both end.
        late = lambda step, _: step == 2 and rank == 1
        fit(again, density, **run, checkpoint=path, callback=late)
        history = fit(again, density, **run, checkpoint=path)
        states = [m.state_dict() for m in (model, again)]
        torch.save((states, whole.loss, history.loss, seen), f"{out}/{rank}.pt")
        """,
        _with_start(tmp_path),
    )
    (a, whole, resumed, seen), (b, *_, other) = (
        torch.load(tmp_path / f"{rank}.pt") for rank in range(2)
    )
    assert len(whole) == 6 and resumed == whole
    for name in a[0]:
        assert torch.equal(a[0][name], b[0][name])  # the processes agree
        assert torch.equal(a[0][name], a[1][name])  # with and without a break
    assert not any(torch.equal(x, y) for x, y in zip(seen, other, strict=True))


def test_two_processes_standardise_alike_and_keep_the_same_best_weights(tmp_path):
    run_two(
        """
        import warnings
        warnings.simplefilter("error")
        density = toy.load("eight_gaussians", width=0.2)
        class Far:
            def sample(self, n, seed=None):
                return 5 * density.sample(n, seed) + 30 + 0.2 * rank  # each its own part

        held = Far().sample(200, seed=1)
        run = dict(steps=6, batch_size=16, lr=0.05, accelerator=accelerator, standardise=True)
        run |= dict(validation=held, validate_every=1, patience=3)
        history = fit(model, Far(), **run)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(0)
            bound = float(model.bound(held - 0.2 * rank).mean())
        numbers = (history.loss, history.validation_steps, history.validation_loss,
                   history.best_step, bound)
        torch.save((numbers, model.state_dict()), f"{out}/{rank}.pt")
        """,
        tmp_path,
    )
    (numbers, state), (others, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert numbers == others
    for name, tensor in state.items():
        assert torch.equal(tensor, other[name]), name
    loss, steps, validation, best, bound = numbers
    assert len(steps) == len(validation) == len(loss)
    assert validation[steps.index(best)] == min(validation)
    # In nats of the data's own units; of 200 paths with other noise.
    assert bound == pytest.approx(min(validation), rel=0.2)
    assert float(state["data_scale"]) == pytest.approx(5, rel=0.05)
    torch.testing.assert_close(state["data_mean"], torch.full((2,), 30.0), rtol=0, atol=0.3)


def _with_start(folder):
    torch.save(small(seed=7).state_dict(), folder / "start.pt")
    return folder


def test_a_notebook_starts_two_processes_as_the_readme_says(tmp_path):
    readme = (Path(__file__).parents[1] / "docs" / "images.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n([^`]*notebook_launcher\([^`]*)```", readme)
    small = "images='digits', size='tiny', steps=(3,), updates=4, batch_size=8"
    code = re.sub(r"Config\([^)]*\),?[^)]*\)", f"Config({small})", code)
    code = code.replace("num_processes=2", f"num_processes=2, use_port='{free_port()}'")
    script = tmp_path / "cell.py"
    script.write_text(code)
    silent = {"DIFFFLOW_EDU_PROGRESS": "0", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | silent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    model = zoo.load(tmp_path / "runs" / "cifar10-paper" / "model.safetensors")
    assert model.card["processes"] == 2 and model.card["config"]["images"] == "digits"


def test_small_batches_gathered_are_one_large_batch():
    class Pieces:
        """The same rows, in one piece or in two."""

        def __init__(self, rows):
            self.rows, self.calls = rows, 0

        def sample(self, n, seed=None):
            first = self.calls % (len(self.rows) // n) * n
            self.calls += 1
            return self.rows[first : first + n]

    class Mean(Process):
        """Its loss is a mean over rows, without noise."""

        def __init__(self):
            super().__init__()
            self.m = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def loss(self, x):
            return (x - self.m).square().sum(1).mean()

    rows = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for accumulate in (1, 2, 4):
        model, pieces = Mean(), Pieces(rows)
        pieces.calls = -1  # `fit` draws one batch to try the model
        run = {"steps": 5, "batch_size": 8 // accumulate, "accumulate": accumulate}
        history = fit(model, pieces, **run)
        found.append((history.loss, model.m.detach()))
    for loss, m in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-12)
        torch.testing.assert_close(m, found[0][1], rtol=1e-12, atol=0)


def test_sixteen_bits_train_the_same_model_with_sums_in_32():
    losses = {}
    for precision in ("no", "bf16"):
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
        torch.manual_seed(0)
        size = Size(channels=8, factors=(1, 2), blocks=1, attention=())
        model = DiffFlow.unet(Schedule.log_snr(3, r_min=0.1, r_max=3.0), (1, 8, 8), size)
        x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        history = fit(model, x, steps=3, batch_size=8, lr=1e-3, accelerator=accelerator)
        losses[precision] = history.loss
        assert all(p.dtype == torch.float32 for p in model.parameters())
    # bf16 keeps 8 bits: nets differ by about a hundredth, and the loss is a sum of their squares.
    assert losses["no"] != losses["bf16"]
    assert losses["bf16"] == pytest.approx(losses["no"], rel=0.05)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"accumulate": 0}, "accumulate must be"),
        ({"accelerator": "cuda"}, "accelerator must be accelerate's Accelerator, got str"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(argument, message):
    with pytest.raises(ValueError, match=message):
        fit(small(), DENSITY, steps=1, **argument)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    body = """
        import os, sys, time, torch
        os.environ["DIFFFLOW_EDU_PROGRESS"] = "0"
        torch.set_num_threads(1)
        from diffflow_edu import DiffFlow, Schedule, fit, toy
        torch.manual_seed(0)
        schedule = Schedule.log_snr(steps=3, r_min=0.1)
        model = DiffFlow.mlp(schedule, hidden=16, learn_backward_std=True)
        density = toy.load("eight_gaussians", width=0.2)
        fit(model, density, steps=100_000, batch_size=16, checkpoint=sys.argv[1] + "/run.pt",
            checkpoint_every=3)
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(body))
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    path = tmp_path / "run.pt"
    # Until a second checkpoint is there: it is somewhere between two then.
    while not path.with_name("run.pt.previous").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    step = torch.load(path, weights_only=True)["step"]

    run = {"steps": 100_000, "batch_size": 16, "checkpoint_every": 3}

    def until(end):
        return lambda i, _: i + 1 == end

    resumed, whole = small(), small()
    history = fit(resumed, DENSITY, **run, checkpoint=path, callback=until(step + 5))
    expected = fit(whole, DENSITY, **run, callback=until(step + 5))
    assert len(history.loss) == step + 5
    assert history.loss == expected.loss and torch.equal(weights(resumed), weights(whole))
