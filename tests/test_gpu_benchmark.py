"""The GPU's day, in miniature on the CPU, and the page that is written from what it found."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.func import functional_call

from diffflow_edu import DiffFlow, Schedule, fid, images, zoo

pytest.importorskip("accelerate", reason="the extra 'images' is not installed")

from benchmarks import gpu
from diffflow_edu.download import DataError
from diffflow_edu.unet import Size, UNet

CPU = torch.device("cpu")
REACHED = {
    "minutes": 3.5, "step": 8, "bits_per_dim": 0.98, "error": 0.01, "fid": 18.0,
    "device": "a GPU", "commit": "0123456789abcdef", "finished": False,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFFLOW_EDU_PROGRESS", "0")
        for name in ("scale.HELD", "scale.CALIBRATION", "evaluation.CALIBRATION"):
            patch.setattr(f"diffflow_edu.{name}", 4)
        patch.setattr("diffflow_edu.scale.END", 20)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A day in miniature, with FID of an untrained net in place of a shipped one."""
    folder = tmp_path_factory.mktemp("day")
    net = fid.LeNet(8).eval()
    net.card, net.sha256 = {"floor_images": 0}, ""
    # One training step a piece.
    plan = replace(gpu.MINIATURE, piece=1e-9, fid_n=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fid, "feature_net", lambda name: net)
        results = gpu.day(plan, CPU, folder / "runs", folder / "out", note="first")
    return folder, plan, results


def test_a_day_leaves_results_sheets_and_weights_that_may_travel(done):
    folder, plan, results = done
    assert json.loads((folder / "out" / "gpu.json").read_text()) == results
    assert not gpu.wrong(results)
    for name, training in plan.trainings.items():
        run = results["trainings"][name]
        assert [row["finished"] for row in run["rows"]].count(True) == 1
        assert run["rows"][-1]["finished"] and run["rows"][-1]["fid"] >= 0
        assert [row["minutes"] for row in run["rows"]] == sorted(r["minutes"] for r in run["rows"])
        weights = folder / "out" / f"{name}.safetensors"
        assert zoo.load(weights).card["config"]["kind"] == training.config.kind
        assert (folder / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert sum(file.stat().st_size for file in (folder / "out").iterdir()) < gpu.LIMIT


def test_gradients_that_should_be_equal_are_and_a_step_is_timed(done):
    parts = done[2]["parts"]
    assert [row["passed"] for row in parts["checks"]["rows"]] == [True, True, True]
    eager = parts["speed, 1×4×4 tiny, diffflow, eager"]
    assert eager["images_per_second"] == pytest.approx(2 / eager["seconds"], rel=0.02)


def test_what_needs_cuda_is_skipped_and_says_why(done):
    parts = done[2]["parts"]
    for way in ("graphs", "compiled"):
        assert "need CUDA, and this is cpu" in parts[f"speed, 1×4×4 tiny, ddpm, {way}"]["skipped"]
    assert "need CUDA" in parts["memory, 1×4×4 tiny"]["skipped"]
    assert "need CUDA" in parts["checks"]["skipped"]["CUDA graphs"]


def test_a_day_that_is_over_does_nothing_again(done, monkeypatch):
    folder, plan, results = done
    monkeypatch.setattr(gpu, "parts", lambda *_: {"checks": None})
    monkeypatch.setattr(gpu.scale, "train", None)
    assert gpu.day(plan, CPU, folder / "runs", folder / "out") == results


def test_a_day_without_time_begins_nothing_and_a_part_that_fails_is_told(tmp_path, monkeypatch):
    def full():
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(gpu, "parts", lambda *_: {"speed": full})
    monkeypatch.setattr(gpu, "MINIATURE", replace(gpu.MINIATURE, trainings={}))
    assert gpu.day(gpu.MINIATURE, CPU, tmp_path, tmp_path, minutes=-1.0)["parts"] == {}
    found = gpu.day(gpu.MINIATURE, CPU, tmp_path, tmp_path)
    assert gpu.wrong(found) == ["speed: out of memory"]


def test_weights_that_would_be_too_much_stay(done, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "LIMIT", 1000)
    gpu.take_along("digits-ddpm-2", done[0] / "runs", tmp_path, (1, 8, 8), CPU)
    assert [file.name for file in tmp_path.iterdir()] == ["digits-ddpm-2.png"]
    assert "its weights stay" in capsys.readouterr().out


# CUDA graphs --------------------------------------------------------------------------------------


class Replayed(torch.autograd.Function):
    """A net whose output and gradients lie in the same memory every time, as in a CUDA graph."""

    @staticmethod
    def forward(ctx, run, static, x, t, *parameters):
        ctx.run, ctx.static = run, static
        ctx.save_for_backward(x, t, *parameters)
        static["out"].copy_(run(x, t, parameters))
        return static["out"].detach()

    @staticmethod
    def backward(ctx, weight):
        x, t, *parameters = (v.detach().requires_grad_() for v in ctx.saved_tensors)
        with torch.enable_grad():
            out = ctx.run(x, t, parameters)
        found = torch.autograd.grad(out, [x, *parameters], weight)
        for kept, grad in zip(ctx.static["grads"], found, strict=True):
            kept.copy_(grad)
        x, *rest = (kept.detach() for kept in ctx.static["grads"])
        return None, None, x, None, *rest


def pretend(net, example):
    """torch.cuda.make_graphed_callables, as far as memory goes."""
    x, t = example
    names, parameters = zip(*net.named_parameters(), strict=True)
    static = {"out": torch.empty_like(x), "grads": [torch.empty_like(p) for p in (x, *parameters)]}
    forward = net.forward

    class Plain(torch.nn.Module):
        def forward(self, *args):
            return forward(*args)

    plain = Plain()
    plain.net = net

    def run(x, t, values):
        return functional_call(
            plain, {f"net.{n}": v for n, v in zip(names, values, strict=True)}, (x, t)
        )

    net.forward = lambda x, t: Replayed.apply(run, static, x, t, *parameters)


def test_the_adjoint_has_its_gradient_with_nets_that_reuse_their_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", pretend)
    torch.manual_seed(0)
    size = Size(channels=8, factors=(1,), blocks=1, attention=())
    model = DiffFlow.unet(Schedule.log_snr(3, r_min=0.1, r_max=3.0), (1, 4, 4), size)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape)
    x = torch.randn(2, 1, 4, 4)

    def found():
        return gpu.gradient(model, lambda: model.loss(x), CPU)

    expected = found()
    with gpu.graphed(model, lambda: model.loss(x), joint=True):
        assert all("forward" in vars(net) for net in model.modules() if isinstance(net, UNet))
        assert gpu.apart(found(), expected) < 1e-5
    assert not any("forward" in vars(net) for net in model.modules())


# What is refused ----------------------------------------------------------------------------------


def test_a_day_without_a_gpu_or_without_pictures_is_refused_in_a_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu", "--minutes", "9"])
    monkeypatch.setattr(gpu.devices, "accelerator", lambda: CPU)
    with pytest.raises(SystemExit, match="no GPU was found; --miniature"):
        gpu.main()

    def absent(name):
        raise DataError(f"{name} is not in a folder")

    monkeypatch.setattr(gpu.devices, "accelerator", lambda: SimpleNamespace(type="cuda"))
    monkeypatch.setattr(images, "load", absent)
    with pytest.raises(SystemExit, match="benchmarks.gpu: mnist is not in a folder"):
        gpu.main()


# The page -----------------------------------------------------------------------------------------


def test_the_page_is_what_the_results_say(tmp_path):
    gpu.write_page(path=tmp_path / "docs" / "records.md")
    assert gpu.PAGE.read_text("utf-8") == (tmp_path / "docs" / "records.md").read_text("utf-8")


def test_a_page_without_a_result_says_so_and_names_every_goal():
    text = gpu.page([])
    assert "**No GPU has run this yet**" in text
    assert text.count("| FID-LeNet ≤ 20 |") == 2 and text.count("| bits/dim ≤ 3.3 |") == 2


def test_a_record_is_the_first_piece_that_reached_its_goal_or_how_near_it_came(done):
    results = json.loads(json.dumps(done[2]))
    slow = REACHED | {"minutes": 2.0, "fid": 30.0, "bits_per_dim": 1.2}
    later = REACHED | {"minutes": 5.0, "fid": 17.0}
    run = {"goals": {"fid": 20.0, "bits_per_dim": 0.9}, "note": "", "rows": [slow, REACHED, later]}
    results["trainings"] = {"mnist-ddpm-30": run}
    text = gpu.page([results])
    assert "| FID-LeNet ≤ 20 | mnist-ddpm-30 | 3.5 | 18.00 | a GPU | 012345678 | – |" in text
    assert "| bits/dim ≤ 0.9 | mnist-ddpm-30 | not in 5 | 0.98 | a GPU |" in text
    assert "No GPU has run this" not in text
    assert "| 1×4×4 tiny | ddpm | eager | " in text
