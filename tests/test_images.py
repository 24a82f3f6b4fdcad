"""Images against their published format, their conventions, and what can go wrong with files."""

import gzip
import hashlib
import io
import math
import pickle
import tarfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffflow_edu import DDPM, Schedule, download, fit, images
from diffflow_edu.download import DataError
from diffflow_edu.processes.coupling import CouplingFlow


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """A cache of its own for every test, a data folder, and no network."""
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("DIFFFLOW_EDU_DATA", str(data))
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")
    monkeypatch.setattr(download, "cache_folder", lambda: tmp_path / "cache")

    def refused(*args, **kwargs):
        raise ConnectionError("no network in tests")

    monkeypatch.setattr("requests.get", refused)
    return data


def idx(array):
    """An IDX file of bytes, after the specification on MNIST's page."""
    head = bytes([0, 0, 8, array.ndim])
    return head + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def random_bytes(*shape, high=256, seed=0):
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.uint8)


@pytest.fixture
def mnist(monkeypatch):
    """Four small arrays in place of MNIST's, and remotes with their checksums."""
    arrays = [
        random_bytes(6, 28, 28),
        random_bytes(6, high=10),
        random_bytes(4, 28, 28, seed=1),
        random_bytes(4, high=10, seed=1),
    ]
    remotes = [
        replace(remote, checksum=f"sha256:{hashlib.sha256(idx(array)).hexdigest()}")
        for remote, array in zip(images.MNIST, arrays, strict=True)
    ]
    monkeypatch.setattr(images, "MNIST", remotes)
    return arrays


def put(folder, arrays, packed):
    folder.mkdir(exist_ok=True)
    for remote, array in zip(images.MNIST, arrays, strict=True):
        if packed:
            (folder / remote.name).write_bytes(gzip.compress(idx(array)))
        else:
            (folder / remote.name.removesuffix(".gz")).write_bytes(idx(array))


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "unpacked"])
def test_mnist_is_read_from_a_folder_of_yours_packed_or_not(elsewhere, mnist, packed):
    put(elsewhere / "mnist", mnist, packed)
    data = images.load("mnist")
    assert data.shape == (1, 28, 28) and data.dim == 784 and data.levels == 256
    np.testing.assert_array_equal(data.train[:, 0], mnist[0])
    np.testing.assert_array_equal(data.train_labels, mnist[1])
    np.testing.assert_array_equal(data.test[:, 0], mnist[2])
    np.testing.assert_array_equal(data.test_labels, mnist[3])
    assert repr(data) == "Images(mnist, 6 + 4 of 1×28×28, published files)"


def test_mnist_is_found_beside_another_set_whose_files_have_the_same_names(elsewhere, mnist):
    put(elsewhere / "another", [random_bytes(*a.shape, seed=9) for a in mnist], packed=True)
    put(elsewhere / "mnist", mnist, packed=True)
    np.testing.assert_array_equal(images.load("mnist").train[:, 0], mnist[0])


def test_half_size_mnist_holds_the_rounded_means_of_two_by_two_pixels(elsewhere, mnist):
    put(elsewhere, mnist, packed=True)
    data = images.load("mnist14")
    assert data.shape == (1, 14, 14)
    exact = mnist[0].astype(float).reshape(6, 14, 2, 14, 2).mean((2, 4))
    np.testing.assert_array_equal(data.train[:, 0], np.floor(exact + 0.5))


def test_a_second_address_serves_where_the_first_does_not(mnist, monkeypatch):
    asked = []

    def serve(self, url, output_file, pooch, **kwargs):
        asked.append(url)
        if "ossci" in url:
            raise OSError("the first server is down")
        number = [remote.url.rsplit("/", 1)[1] for remote in images.MNIST].index(
            url.rsplit("/", 1)[1]
        )
        Path(output_file).write_bytes(gzip.compress(idx(mnist[number])))

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", serve)
    images.load("mnist")
    assert len(asked) == 8 and all("cvdf" in url for url in asked[1::2])
    asked.clear()
    images.load("mnist")  # from the cache
    assert asked == []


@pytest.fixture
def fashion(monkeypatch):
    """Four small arrays in place of Fashion-MNIST's as files, and remotes with their checksums."""
    arrays = [
        random_bytes(5, 28, 28, seed=2),
        random_bytes(5, high=10, seed=2),
        random_bytes(3, 28, 28, seed=3),
        random_bytes(3, high=10, seed=3),
    ]
    # These checksums are of what is published, packed.
    files = {
        remote.name: gzip.compress(idx(array), mtime=0)
        for remote, array in zip(images.FASHION_MNIST, arrays, strict=True)
    }
    remotes = [
        replace(remote, checksum=f"md5:{hashlib.md5(files[remote.name]).hexdigest()}")
        for remote in images.FASHION_MNIST
    ]
    monkeypatch.setattr(images, "FASHION_MNIST", remotes)
    return arrays, files


def put_fashion(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def test_fashion_mnist_is_read_beside_mnist_whose_files_have_the_same_names(
    elsewhere, mnist, fashion
):
    arrays, files = fashion
    put(elsewhere / "mnist", mnist, packed=True)
    put_fashion(elsewhere, files)
    data = images.load("fashion_mnist")
    assert repr(data) == "Images(fashion_mnist, 5 + 3 of 1×28×28, published files)"
    np.testing.assert_array_equal(data.train[:, 0], arrays[0])
    np.testing.assert_array_equal(data.train_labels, arrays[1])
    np.testing.assert_array_equal(data.test[:, 0], arrays[2])
    np.testing.assert_array_equal(data.test_labels, arrays[3])
    assert not data.flip  # its shoes all point the same way
    np.testing.assert_array_equal(images.load("mnist").train[:, 0], mnist[0])


def test_a_file_of_fashion_mnist_that_is_not_the_published_one_is_not_used(elsewhere, fashion):
    _, files = fashion
    put_fashion(elsewhere, files)
    path = elsewhere / images.FASHION_MNIST[2].name
    path.write_bytes(path.read_bytes()[:-9])
    message = (
        rf"{path} is not the published fashion-mnist/t10k-images-idx3-ubyte.gz: its checksum is "
        rf"md5:\w+ instead of {images.FASHION_MNIST[2].checksum}. It was not used. It may be "
        rf"truncated; get it again from {images.FASHION_MNIST[2].url}"
    )
    with pytest.raises(DataError, match=message):
        images.load("fashion_mnist")


def test_fashion_mnist_comes_from_its_repository_where_its_server_does_not_answer(
    fashion, monkeypatch
):
    arrays, files = fashion
    asked = []

    def serve(self, url, output_file, pooch, **kwargs):
        asked.append(url)
        if "s3-website" in url:
            raise OSError("the first server is down")
        Path(output_file).write_bytes(files["fashion-mnist/" + url.rsplit("/", 1)[1]])

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", serve)
    np.testing.assert_array_equal(images.load("fashion_mnist").train[:, 0], arrays[0])
    assert len(asked) == 8
    assert all("zalandoresearch/fashion-mnist" in url for url in asked[1::2])


def test_a_download_that_is_not_the_published_file_is_kept_aside(fashion, tmp_path, monkeypatch):
    def serve(self, url, output_file, pooch, **kwargs):
        Path(output_file).write_bytes(b"<html>Log in to this network</html>")

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", serve)
    with pytest.raises(DataError, match="is not the published fashion-mnist/train.*kept as .*bad"):
        images.load("fashion_mnist")
    aside = tmp_path / "cache" / f"{images.FASHION_MNIST[0].name}.bad"
    assert aside.exists() and not aside.with_suffix("").exists()


def test_without_a_network_the_error_says_which_file_from_where_and_where_to_put_it(elsewhere):
    with pytest.raises(DataError) as error:
        images.load("fashion_mnist")
    message = str(error.value)
    for part in (
        "fashion-mnist/train-images-idx3-ubyte.gz (26 MB)",
        str(elsewhere),
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "or from https://raw.githubusercontent.com/zalandoresearch/fashion-mnist",
        "no network in tests",
        "or as fashion-mnist/train-images-idx3-ubyte.gz into any folder that DIFFFLOW_EDU_DATA",
    ):
        assert part in message


@pytest.mark.parametrize("spoil", [lambda c: c[:-20], lambda c: gzip.compress(b"something else")])
def test_a_file_that_is_not_the_published_one_is_not_used(elsewhere, mnist, spoil):
    put(elsewhere, mnist, packed=True)
    path = elsewhere / images.MNIST[0].name
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path}.*not the published.*was not used"):
        images.load("mnist")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\x89PNG and so on", "not an IDX file"), (idx(random_bytes(3, 2))[:-1], r"\(3, 2\).*has 5")],
)
def test_an_idx_file_is_checked(tmp_path, content, message):
    path = tmp_path / "x-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        images.read_idx(path)


def cifar_arrays(rows=3):
    pictures = random_bytes(6 * rows, 3, 32, 32)
    labels = random_bytes(6 * rows, high=10)
    return pictures, labels


def test_cifar10_is_read_from_the_published_archive(elsewhere, monkeypatch):
    pictures, labels = cifar_arrays()
    archive = elsewhere / images.CIFAR10.name
    with tarfile.open(archive, "w:gz") as tar:
        for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
            rows = slice(3 * i, 3 * i + 3)
            batch = {
                b"data": pictures[rows].reshape(3, -1),
                b"labels": [int(label) for label in labels[rows]],
            }
            content = pickle.dumps(batch, protocol=2)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    checksum = f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}"
    monkeypatch.setattr(images, "CIFAR10", replace(images.CIFAR10, checksum=checksum))
    data = images.load("cifar10")
    assert data.shape == (3, 32, 32) and data.flip
    np.testing.assert_array_equal(data.train, pictures[:15])
    np.testing.assert_array_equal(data.test, pictures[15:])
    np.testing.assert_array_equal(data.train_labels, labels[:15])
    np.testing.assert_array_equal(data.test_labels, labels[15:])


def test_cifar10_is_read_from_arrays_channels_last(elsewhere):
    pictures, labels = cifar_arrays()
    last = pictures.transpose(0, 2, 3, 1)
    arrays = {"x_train": last[:15], "y_train": labels[:15]}
    np.savez(elsewhere / "cifar10.npz", **arrays)
    with pytest.raises(DataError, match="cifar10.npz lacks x_test, y_test"):
        images.load("cifar10")
    np.savez(elsewhere / "cifar10.npz", **arrays, x_test=last[15:], y_test=labels[15:])
    data = images.load("cifar10")
    np.testing.assert_array_equal(data.train, pictures[:15])
    np.testing.assert_array_equal(data.test_labels, labels[15:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": np.zeros((3, 3, 32, 32), np.uint8)}, r"x_test uint8 \(n, 32, 32, 3\)"),
        ({"x_train": np.zeros((15, 32, 32, 3))}, "x_train uint8 .*got float64"),
        ({"y_train": np.zeros(3, np.uint8)}, r"y_train \(n,\)"),
    ],
)
def test_arrays_that_are_not_cifar10s_are_refused(elsewhere, change, message):
    good = {"x_train": np.zeros((15, 32, 32, 3), np.uint8), "y_train": np.zeros((15, 1), np.uint8)}
    good |= {"x_test": np.zeros((3, 32, 32, 3), np.uint8), "y_test": np.zeros(3, np.uint8)}
    np.savez(elsewhere / "cifar10.npz", **good)
    assert images.load("cifar10").train_labels.shape == (15,)
    np.savez(elsewhere / "cifar10.npz", **good | change)
    with pytest.raises(DataError, match=message):
        images.load("cifar10")
    whole = (elsewhere / "cifar10.npz").read_bytes()
    (elsewhere / "cifar10.npz").write_bytes(whole[:-200])
    with pytest.raises(DataError, match="cannot be read, it may be truncated"):
        images.load("cifar10")


def test_digits_need_no_file_and_no_network(monkeypatch):
    monkeypatch.delenv("DIFFFLOW_EDU_DATA")
    data = images.load("digits")
    assert data.shape == (1, 8, 8) and data.levels == 17
    assert (len(data.train), len(data.test)) == (1500, 297)
    assert int(data.train.max()) == 16
    # A split in the order of the file would put other writers into the test set.
    assert set(data.test_labels.tolist()) == set(range(10))


def test_patches_need_no_file_and_training_shares_no_pixel_with_testing(monkeypatch):
    monkeypatch.delenv("DIFFFLOW_EDU_DATA")
    # Photographs whose pixels say in which column they are, twice as wide as they get.
    column = np.repeat(np.arange(320) % 256, 2).astype(np.uint8)
    photograph = np.broadcast_to(column[None, :, None], (427, 640, 3))
    monkeypatch.setattr("sklearn.datasets.load_sample_image", lambda file: photograph)
    data = images.load("patches")
    assert data.shape == (3, 8, 8) and (len(data.train), len(data.test)) == (80_752, 1560)
    train, test = (set(x[:, 0, 0].flatten().tolist()) for x in (data.train, data.test))
    # Columns from 256 on count from 0 again: 256 … 319, for training, are 0 … 63.
    assert test == {*range(36, 60), *range(132, 156), *range(228, 252)}
    assert train == {*range(64), *range(64, 128), *range(160, 224)}
    first = data.train[0, 0, 0].tolist()
    assert first == list(range(first[0], first[0] + 8))


def test_patches_of_the_two_photographs_are_as_many_and_colours_come_first():
    data = images.load("patches")
    assert data.train_labels.bincount().tolist() == [40_376, 40_376]
    sky, dahlia = data.train[data.train_labels == 0], data.train[data.train_labels == 1]
    # By eye: the pagoda's photograph is bright and bluish, the dahlia's is dark.
    assert float(sky.float().mean()) > 2 * float(dahlia.float().mean())
    assert torch.equal(data.train[:3], images.load("patches").train[:3])


def test_an_unknown_set_is_refused_with_its_nearest_name():
    with pytest.raises(ValueError, match="unknown images 'cifar': did you mean 'cifar10'"):
        images.load("cifar")


# Conventions --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    return images.load("digits")


def test_dequantised_pictures_fill_their_cells_evenly_and_quantise_back(digits):
    pictures = digits.test
    y = digits.dequantise(pictures, seed=0)
    assert y.dtype == torch.float32 and y.shape == pictures.shape
    assert float(y.min()) >= -1 and float(y.max()) < 1
    torch.testing.assert_close(digits.quantise(y), pictures)
    u = (y + 1) * 17 / 2 - pictures
    assert 0 <= float(u.min()) and float(u.max()) <= 1.0001  # float32 of numbers up to 17
    # 19 008 uniform numbers: the mean within 4 standard errors, .0021 each.
    assert abs(float(u.mean()) - 0.5) < 0.0084


def test_what_lies_outside_is_cut_off_when_quantised(digits):
    y = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0, math.nan])
    assert digits.quantise(y).tolist() == [0, 0, 8, 16, 16, 0]


def test_uniform_noise_costs_the_bits_that_a_grey_level_holds(digits):
    # y uniform on [-1, 1]: −log p = D ln 2 nats; a uniform grey level of 256 costs 8 bits.
    bits = replace(digits, levels=256).bits_per_dim(64 * math.log(2))
    assert bits == pytest.approx(8)
    assert digits.bits_per_dim(64 * math.log(2)) == pytest.approx(math.log2(17))


@pytest.mark.parametrize("name", ["digits", "patches"])
def test_dequantised_pictures_never_reach_one_which_is_no_picture_s(name, monkeypatch):
    data = images.load(name)
    brightest = torch.full((1, *data.shape), data.levels - 1, dtype=torch.uint8)
    usual = data.dequantise(data.test[:50], seed=0)
    last = 1 - 2**-24  # of the numbers that torch.rand may give
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, last))
    y = data.dequantise(brightest)
    assert -1 <= float(y.min()) and float(y.max()) < 1
    assert torch.equal(data.quantise(y), brightest)
    monkeypatch.undo()
    # Nothing else moves: the stored results were made with these numbers.
    u = torch.rand(usual.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(usual, (data.test[:50] + u) * (2 / data.levels) - 1)


@pytest.mark.parametrize("model", [DDPM, CouplingFlow])
def test_pictures_that_were_not_dequantised_are_named_where_their_bits_are_asked_for(digits, model):
    if model is DDPM:
        schedule = Schedule.log_snr(2, r_min=0.1)
        model, shape = DDPM(torch.nn.Identity(), schedule), (1, 8, 8)
        model.score.forward = lambda x, t: -x
    else:
        model, shape = CouplingFlow(dim=64, layers=1, hidden=4), (64,)
    model.eval()
    whole = (digits.test[:30] * (2 / 17) - 1).reshape(30, *shape)
    with pytest.warns(UserWarning, match="only 17 levels .*not dequantised.*Images.dequantise"):
        model.bound(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.bound(digits.dequantise(digits.test[:30], seed=0).reshape(30, *shape))


def test_batches_are_drawn_by_seed_and_leave_the_global_generator_alone(digits):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b = digits.sample(5, seed=3), digits.sample(5, seed=3)
    assert torch.equal(a, b) and not torch.equal(a, digits.sample(5, seed=4))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(digits.sample(5), digits.sample(5))


def test_mirrored_pictures_are_about_half(digits):
    one = replace(digits, train=torch.arange(4, dtype=torch.uint8).reshape(1, 1, 1, 4), flip=True)
    pictures = one.quantise(one.sample(1000, seed=0))
    turned = int((pictures[:, 0, 0, 0] == 3).sum())
    assert turned + int((pictures[:, 0, 0, 0] == 0).sum()) == 1000
    assert abs(turned - 500) < 4 * math.sqrt(250)  # 4 standard deviations
    plain = replace(one, flip=False)
    assert int(plain.quantise(plain.sample(100, seed=0))[:, 0, 0, 0].max()) == 0


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (torch.zeros(2, 1, 8, 8), "pictures must be a uint8 tensor, got torch.float32"),
        ([1, 2], "pictures must be a uint8 tensor, got list"),
        (torch.full((1, 1, 8, 8), 17, dtype=torch.uint8), "levels 0 … 16, got 17"),
    ],
)
def test_only_grey_levels_are_dequantised(digits, pictures, message):
    with pytest.raises(ValueError, match=message):
        digits.dequantise(pictures)


def test_sample_refuses_a_number_that_is_none(digits):
    with pytest.raises(ValueError, match="n must be"):
        digits.sample(0)


class Flat(torch.nn.Module):
    """Pictures as vectors, for a coupling flow."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def sample(self, n, seed=None):
        return self.data.sample(n, seed).flatten(1)


def test_fit_takes_images_as_it_takes_a_density(digits):
    torch.manual_seed(0)
    model = CouplingFlow(dim=64, layers=2, hidden=16)
    history = fit(model, Flat(digits), steps=3, batch_size=8)
    assert len(history.loss) == 3


def test_the_real_mnist_has_its_published_checksums(monkeypatch):
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not (folder / "mnist").is_dir():
        pytest.skip("needs the real files beside the checkout")
    monkeypatch.setenv("DIFFFLOW_EDU_DATA", str(folder))
    data = images.load("mnist")
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    # The published mean of the training pixels, .1307 of 255.
    assert float(data.train.float().mean()) / 255 == pytest.approx(0.1307, abs=1e-4)
