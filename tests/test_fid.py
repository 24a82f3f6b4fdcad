"""The Fréchet distance against closed forms, and the shipped feature nets."""

import json

import pytest
import torch

from benchmarks import feature_nets
from diffflow_edu import fid, images


def gaussian(n, mean, factor, seed):
    """n points whose sample mean and covariance are exactly mean and factor factorᵀ."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, len(mean), generator=generator, dtype=torch.float64)
    x = x - x.mean(0)
    x = torch.linalg.solve(torch.linalg.cholesky(torch.cov(x.T)), x.T).T
    return x @ factor.T + mean


def test_the_distance_of_two_gaussians_is_the_closed_form():
    # One turned against the other: (Σ_a Σ_b)^½ by the eigenvalues of the product, which numpy has.
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
    factor = torch.diag(torch.tensor([2.0, 0.5], dtype=torch.float64))
    a = gaussian(500, torch.tensor([1.0, 2.0], dtype=torch.float64), factor, 0)
    b = gaussian(700, torch.tensor([0.0, 4.0], dtype=torch.float64), turn @ factor, 1)
    cov_a, cov_b = factor @ factor.T, turn @ factor @ factor.T @ turn.T
    root = torch.linalg.eigvals(cov_a @ cov_b).real.sqrt().sum()
    expected = 5 + cov_a.trace() + cov_b.trace() - 2 * root
    assert fid.frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert fid.frechet_distance(b, a) == pytest.approx(float(expected), rel=1e-9)


def test_a_set_is_at_no_distance_from_itself_even_where_a_feature_never_moves():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 1.0
    assert fid.frechet_distance(x, x) == pytest.approx(0, abs=1e-6)  # a root of rounding errors


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 3), r"got \(3, 2\) and \(3, 3\)"),
        (torch.zeros(1, 2), torch.zeros(3, 2), "n, m ≥ 2"),
        (torch.full((3, 2), torch.nan), torch.zeros(3, 2), "finite"),
    ],
)
def test_features_that_have_no_gaussian_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        fid.frechet_distance(a, b)


@pytest.mark.parametrize("name", ["mnist", "mnist14"])
def test_a_feature_net_is_shipped_with_its_accuracy_floor_and_checksum(name):
    net = fid.feature_net(name)
    assert not net.training and len(net.sha256) == 64
    assert net.card["accuracy"] > 0.98 and 0 < net.card["floor"] < 10
    assert net.card["floor_images"] == 10_000 and "feature_nets" in net.card["command"]
    x = torch.zeros(3, 1, net.side, net.side)
    assert fid.features(net, x).shape == (3, 128)
    assert torch.equal(fid.features(net, x + 5), fid.features(net, x + 1))  # cut off at white


def test_a_resnet_takes_colour_images_and_has_128_features():
    torch.manual_seed(0)
    net = fid.ResNet().eval()
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    assert net(x).shape == (4, 10) and fid.features(net, x).shape == (4, 128)
    # In eval mode, an image's features do not depend on its neighbours in the batch.
    torch.testing.assert_close(net.features(x[:1]), net.features(x)[:1], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"\(B, 3, 32, 32\), got \(2, 1, 32, 32\)"):
        net(torch.zeros(2, 1, 32, 32))


def test_an_augmented_picture_is_a_piece_of_the_original_mirrored_or_not():
    # Every pixel of a picture has its own level, so that where it came from can be read off.
    levels = torch.arange(12 * 12, dtype=torch.uint8).reshape(1, 1, 12, 12).repeat(60, 2, 1, 1)
    torch.manual_seed(0)
    out = feature_nets.augmented(levels, reach=2)
    assert out.shape == levels.shape and out.dtype == torch.uint8
    assert torch.equal(out[:, 0], out[:, 1])  # all colours move together
    middle = out[:, 0, 4:8, 4:8].long()  # at most 2 pixels from where it was: no edge in it
    down, across = middle[:, 1, 0] - middle[:, 0, 0], middle[:, 0, 1] - middle[:, 0, 0]
    assert down.eq(12).all() and across.abs().eq(1).all()
    assert 15 < int((across < 0).sum()) < 45  # 60 coins: 30 ± 4 standard deviations
    moved = middle[across > 0][:, 0, 0] - (4 * 12 + 4)
    assert len(moved.unique()) > 10 and int(moved.abs().max()) <= 2 * 12 + 2


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(B, 1, 14, 14\), got \(2, 1, 28, 28\)"):
        fid.features(fid.feature_net("mnist14"), torch.zeros(2, 1, 28, 28))


def test_the_net_in_a_file_is_the_one_its_card_names(tmp_path, monkeypatch):
    torch.manual_seed(0)
    net = fid.ResNet()
    monkeypatch.setattr(fid, "FOLDER", tmp_path)
    feature_nets.ship(net.eval(), "stained_glass", {"accuracy": 0.5})
    again = fid.feature_net("stained_glass")
    assert isinstance(again, fid.ResNet) and again.card["accuracy"] == 0.5
    x = torch.rand(2, 3, 32, 32)
    # Stored as 16-bit numbers: three decimals.
    torch.testing.assert_close(again.features(x), net.features(x), rtol=1e-2, atol=1e-2)


def test_a_set_without_a_feature_net_is_told_which_have_one():
    with pytest.raises(ValueError, match="no feature net for 'digits'.*mnist, mnist14"):
        fid.feature_net("digits")


def test_a_truncated_feature_net_is_named(tmp_path, monkeypatch):
    whole = (fid.FOLDER / "lenet-mnist14.safetensors").read_bytes()
    (tmp_path / "lenet-mnist14.safetensors").write_bytes(whole[:-100])
    monkeypatch.setattr(fid, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="lenet-mnist14.safetensors cannot be used"):
        fid.feature_net("mnist14")


def test_noise_is_far_from_digits_and_digits_are_not(monkeypatch):
    # Without MNIST at hand: scikit-learn's digits, blown up to 14×14 by repeating pixels.
    digits = images.load("digits")
    y = digits.dequantise(digits.train, seed=0)
    y = torch.nn.functional.interpolate(y, size=(14, 14), mode="bilinear")
    net = fid.feature_net("mnist14")
    noise = torch.rand(500, 1, 14, 14, generator=torch.Generator().manual_seed(0)) * 2 - 1
    a, b, c = fid.features(net, y[:700]), fid.features(net, y[700:1400]), fid.features(net, noise)
    assert 5 * fid.frechet_distance(a, b) < fid.frechet_distance(a, c)
    assert json.dumps(net.card)
