"""The U-Net as a field on images, and the adjoint through it."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from diffflow_edu import DDPM, DiffFlow, Schedule
from diffflow_edu.unet import Size, UNet, cost

SMALL = Size(channels=8, factors=(1, 2, 2), blocks=1, attention=(1,))
"""Every kind of layer, and nothing to wait for."""


def awake(net, seed=0):
    """With no weight at zero, so that every path through the net counts."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    return net


@pytest.mark.parametrize("side", [4, 7, 8, 14, 28])
def test_a_field_on_images_of_any_side_has_their_shape(side):
    net = awake(UNet(channels=3, size=SMALL))
    x = torch.randn(2, 3, side, side + 1)
    assert net(x, torch.tensor(0.3)).shape == x.shape


def test_one_time_for_all_is_the_same_as_that_time_for_each():
    net = awake(UNet(1, SMALL)).double()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    t = torch.tensor(0.3, dtype=torch.float64)
    # float64; sums in another order.
    torch.testing.assert_close(net(x, t), net(x, t.expand(3)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("trailing", [(), (1,), (1, 1), (1, 1, 1)])
def test_rows_with_times_of_their_own_are_what_each_row_alone_is(trailing):
    net = awake(UNet(1, SMALL)).double()
    x = torch.randn(2, 3, 1, 8, 8, dtype=torch.float64)
    times = torch.tensor([0.2, 0.9], dtype=torch.float64)
    together = net(x, times.reshape(2, *trailing) if trailing else times[:, None])
    for row, t, got in zip(x, times, together, strict=True):
        torch.testing.assert_close(got, net(row, t), rtol=1e-10, atol=1e-12)


def test_time_reaches_every_pixel_and_distant_pixels_reach_one_another():
    net = awake(UNet(1, SMALL))
    x = torch.zeros(1, 1, 16, 16)
    changed = net(x, torch.tensor(0.1)) != net(x, torch.tensor(0.9))
    assert bool(changed.all())
    dotted = x.clone()
    dotted[0, 0, 0, 0] = 1.0
    with torch.no_grad():
        difference = net(dotted, torch.tensor(0.1)) - net(x, torch.tensor(0.1))
    assert float(difference[0, 0, 15, 15]) != 0


def test_a_drift_starts_at_zero_and_a_score_does_not():
    torch.manual_seed(0)
    model = DiffFlow.unet(Schedule.log_snr(5), (1, 8, 8), size="tiny")
    x, t = torch.randn(2, 1, 8, 8), torch.tensor(0.5)
    assert not bool(model.drift_at(x, t).any())
    assert bool(model.score_at(x, t).any())


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3, 8, 8), r"x must be images \(\.\.\., 1, H, W\) with H, W ≥ 4"),
        (torch.zeros(2, 1, 3, 8), "got \\(2, 1, 3, 8\\)"),
        (torch.zeros(2, 2), "x must be images"),
    ],
)
def test_what_is_not_such_an_image_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        UNet(1, SMALL)(x, torch.tensor(0.5))


@pytest.mark.parametrize("size", ["huge", 3])
def test_an_unknown_size_is_refused(size):
    with pytest.raises(ValueError, match="one of tiny, .*, paper or a Size, got"):
        UNet(1, size)


@pytest.mark.parametrize("shape", [(28, 28), "abc", (1, 0, 3)])
def test_a_shape_that_is_not_an_images_is_refused(shape):
    for model in (DiffFlow, DDPM):
        with pytest.raises(ValueError, match="shape must be"):
            model.unet(Schedule.log_snr(5), shape)


def test_two_nets_of_the_paper_hold_about_as_many_weights_as_one_of_ddpm():
    # Ho et al. 2020, appendix B: 35.7 million on CIFAR-10.
    with torch.device("meta"):
        net = UNet(channels=3, size="paper")
    one = sum(p.numel() for p in net.parameters())
    assert 2 * one == pytest.approx(35.7e6, rel=0.1)


def test_the_cost_of_a_convolution_is_counted_as_by_hand():
    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(2, 3, 3, padding=1, bias=False)

        def forward(self, x, t):
            return self.conv(x)

    found = cost(One(), (2, 5, 5))
    assert found.parameters == 2 * 3 * 9
    assert found.flops == 2 * (2 * 3 * 9) * 25


def test_attention_is_counted_too():
    from diffflow_edu.unet import Attention

    class One(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = Attention(8)

        def forward(self, x, t):
            return self.attention(x)

    n, width = 25, 8
    products = 2 * 2 * n * n * width  # q kᵀ, and the weights with v
    convolutions = 2 * n * width * (3 * width + width)
    assert cost(One(), (width, 5, 5)).flops == products + convolutions


def model_with(steps, dtype):
    torch.manual_seed(0)
    model = DiffFlow.unet(Schedule.log_snr(steps, r_min=0.05, r_max=3.0), (1, 8, 8), SMALL, True)
    for net in (model.drift, model.score.net):
        awake(net)
    return model.to(dtype)


@pytest.mark.parametrize("objective", ["loss", "bound"])
def test_the_adjoint_through_a_unet_is_autograds_gradient(objective):
    model = model_with(3, torch.float64)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    noise = torch.randn(3, *x.shape, dtype=torch.float64)
    parameters = [p for p in model.parameters() if p.requires_grad]
    naive = model.bound(x, noise, gradient="autograd").mean()
    expected = torch.autograd.grad(naive, parameters, allow_unused=True)
    ours = model.loss(x, noise) if objective == "loss" else model.bound(x, noise).mean()
    found = torch.autograd.grad(ours, parameters, allow_unused=True)
    scale = torch.cat([g.flatten() for g in expected if g is not None]).norm()
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert float((a - b).norm() / scale) < 1e-9  # float64, a few hundred operations deep


def test_ddpm_inside_a_unet_diffflow_has_its_bound():
    model = model_with(4, torch.float64)
    torch.nn.init.zeros_(model.drift.last.weight)
    torch.nn.init.zeros_(model.drift.last.bias)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    noise = torch.randn(4, *x.shape, dtype=torch.float64)
    torch.testing.assert_close(DDPM.of(model).bound(x, noise), model.bound(x, noise))
    assert DDPM.of(model).loss(x).isfinite()


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_channels_last_changes_the_layout_and_not_the_numbers(size):
    net = awake(UNet(1, size))
    x, t = torch.randn(2, 1, 8, 8), torch.tensor(0.5)
    with torch.no_grad():
        expected = net(x, t)
        net = net.to(memory_format=torch.channels_last)
        found = net(x.to(memory_format=torch.channels_last), t)
    # float32 sums in another order, through ten layers.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


# Memory -------------------------------------------------------------------------------------------

FLAT = 1.3
"""Of N = 50 over N = 5, beside the states that are kept: nearly flat."""


def test_what_the_adjoint_holds_for_backward_is_one_step_of_the_unet_for_any_n():
    from benchmarks.adjoint import peak_saved

    held = {}
    for steps in (5, 50):
        model = model_with(steps, torch.float32)
        x = torch.randn(1, 1, 8, 8)
        held[steps] = peak_saved(lambda: model.loss(x).backward())  # noqa: B023
        if steps == 5:
            naive = peak_saved(lambda: model.bound(x, gradient="autograd").mean().backward())  # noqa: B023
    assert held[5] > 0 and held[50] <= FLAT * held[5]
    assert naive > 2 * held[5]  # of five steps; both hold the weights, which are counted once


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak")
def test_the_peak_resident_memory_of_the_adjoint_through_a_unet_is_nearly_flat_in_n():
    # The peak of a process only rises: N = 50, after N = 5, may add the states and little more.
    body = """
        import torch
        from benchmarks.adjoint import peak_resident
        from diffflow_edu import DiffFlow, Schedule
        from diffflow_edu.unet import Size

        torch.set_num_threads(1)
        size = Size(channels=8, factors=(1, 2), blocks=1, attention=())

        def peak(steps, batch):
            torch.manual_seed(0)
            model = DiffFlow.unet(Schedule.log_snr(steps), (1, 16, 16), size)
            model.loss(torch.randn(batch, 1, 16, 16)).backward()
            return peak_resident()

        print(peak(2, 1), peak(5, 32), peak(50, 32))
    """
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(body)],
        cwd=Path(__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    )
    before, five, fifty = map(int, answer.stdout.split())
    states = 4 * 51 * 32 * 16 * 16
    assert five - before > 5 * states  # a step of the net is what there is to see
    assert fifty - before - states <= FLAT * (five - before)
