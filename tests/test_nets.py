"""The networks, and the score they predict."""

import pytest
import torch

from diffflow_edu import DDPM, DiffFlow, Schedule
from diffflow_edu.nets import MLP, NoisePrediction, ResidualMLP


@pytest.fixture(params=[MLP, ResidualMLP])
def net(request):
    torch.manual_seed(0)
    return request.param(dim=3, hidden=16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_field_has_the_shape_and_dtype_of_x(net, dtype):
    x = torch.randn(5, 3, dtype=dtype)
    out = net.to(dtype)(x, torch.tensor(0.3, dtype=dtype))
    assert out.shape == x.shape and out.dtype == dtype


def test_one_time_for_all_a_time_each_and_a_time_a_row_agree(net):
    x = torch.randn(4, 5, 3)
    t = torch.rand(4)
    rows = torch.stack([net(x[i], t[i]) for i in range(4)])
    # Same sums in another order: float32 rounding.
    assert torch.allclose(net(x, t[:, None]), rows, atol=1e-5)
    assert torch.allclose(net(x[:, 0], t), rows[:, 0], atol=1e-5)


def test_the_time_embedding_is_computed_once_for_a_batch(net):
    seen = []
    net.time.register_forward_hook(lambda module, inputs, out: seen.append(out.shape))
    net(torch.randn(1000, 3), torch.tensor(0.3))
    assert seen == [(3 * 16,)]


@pytest.mark.parametrize("kind", [MLP, ResidualMLP])
def test_a_net_initialised_at_zero_is_the_zero_field_and_still_learns(kind):
    net = kind(dim=2, zero_init=True)
    out = net(torch.randn(5, 2), torch.tensor(0.3))
    assert not out.any()
    (out - 1).square().sum().backward()
    assert net.last.weight.grad.any()


def test_without_frequencies_the_input_is_x_alone():
    assert MLP(dim=2, frequencies=0).layers[0].in_features == 2


def test_x_and_t_matter(net):
    x, t = torch.randn(5, 3), torch.tensor(0.3)
    assert not torch.allclose(net(x, t), net(x + 0.1, t), atol=1e-3)
    assert not torch.allclose(net(x, t), net(x, t + 0.1), atol=1e-3)


def test_a_predicted_noise_becomes_a_score_over_minus_sigma(net):
    noise = Schedule.linear_beta(10).noise_process
    score = NoisePrediction(net, noise)
    x, t = torch.randn(4, 3), torch.rand(4) + 0.1
    expected = -net(x, t) / noise.sigma(t)[:, None]
    assert torch.allclose(score(x, t), expected, rtol=1e-6)
    assert torch.allclose(score(x, t[0]), -net(x, t[0]) / noise.sigma(t[0]), rtol=1e-6)


def test_particles_of_another_dimension_are_named(net):
    with pytest.raises(ValueError, match=r"x must have 3 numbers a particle, got shape \(5, 2\)"):
        net(torch.randn(5, 2), torch.tensor(0.3))


def test_the_residual_net_sees_rows_whose_spread_differs_a_hundredfold():
    """.01 and .02 differ by more than .1 somewhere in its first layer, as 1 and 2 do."""
    torch.manual_seed(0)
    net, t = ResidualMLP(dim=3), torch.tensor(0.3)
    seen = []
    net.norms[0].register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    x = torch.randn(50, 3)
    for scale in (0.01, 0.02, 1.0, 2.0):
        net(scale * x, t)
    small, large = ((b - a).abs().amax(-1).mean() for a, b in (seen[:2], seen[2:]))
    assert small > 0.1 and large > 0.1


def test_the_time_turns_the_magnifications_of_the_residual_net():
    net = ResidualMLP(dim=1, hidden=4)
    x, t = torch.ones(1, 1), torch.tensor(0.3)
    before = net(x, t)
    net.gain.weight.data.fill_(0.1)
    assert not torch.allclose(net(x, t), before, atol=1e-3)


def test_in_much_noise_a_smooth_net_has_no_fine_detail_and_in_little_it_has_it_all():
    """Its waves are faded by what noise of half the width leaves of them: by hand, at every t."""
    torch.manual_seed(0)
    noise = Schedule.log_snr(30, r_min=1e-4).noise_process
    plain, smooth = MLP(), MLP(smooth=noise)
    smooth.load_state_dict(plain.state_dict())
    x, times = torch.randn(4, 2), torch.tensor([0.0, 0.4, 0.7, 1.0])
    assert torch.equal(smooth(x, times[0]), plain(x, times[0]))  # σ = 0

    def first_layer(net, t):
        seen = []
        with net.layers[0].register_forward_hook(
            lambda module, inputs, out: seen.append(inputs[0])
        ):
            net(x, t)
        return seen[0]

    for t in times:
        ratio = (first_layer(smooth, t) / first_layer(plain, t))[:, 2:].unflatten(1, (2, 2, 6))
        left = torch.exp(-0.5 * (0.5 * 2.0 ** torch.arange(6) * noise.sigma(t)).square())
        assert torch.allclose(ratio, left.expand_as(ratio), atol=1e-5)
    assert left[5] < 1e-20 and left[0] > 0.88
    # A time a row, as DDPM's loss asks.
    rows = smooth(x[:, None], times[:, None])
    for i, t in enumerate(times):
        assert torch.allclose(rows[i], smooth(x[i : i + 1], t), atol=1e-5)


def test_what_cannot_smooth_a_net_is_named():
    with pytest.raises(ValueError, match="smooth must be a NoiseProcess, got True"):
        MLP(smooth=True)


@pytest.mark.parametrize("kind", [DiffFlow, DDPM])
def test_the_networks_of_a_smooth_model_are_smooth(kind):
    schedule = Schedule.log_snr(4)
    nets = [m for m in kind.mlp(schedule, hidden=8, smooth=True).modules() if isinstance(m, MLP)]
    assert nets and all(net.smooth is schedule.noise_process for net in nets)
    assert all(
        net.smooth is None for net in kind.mlp(schedule, hidden=8).modules() if isinstance(net, MLP)
    )
