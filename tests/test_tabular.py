"""Tabular sets: the rules of the MAF paper, the archive, the cache, and the Gaussian baseline.

No network: the archive of these tests is built on the spot, a few hundred rows in the real layout,
and served from a file.
"""

import hashlib
import io
import json
import os
import pickle
import shutil
import sys
import tarfile
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import tabular as benchmark
from diffflow_edu import download, fit, fit_data, tabular
from diffflow_edu.download import DataError
from diffflow_edu.pickled_frame import read_frame
from diffflow_edu.processes.base import Process


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """A cache of its own for every test, no data folder, and no network."""
    monkeypatch.delenv("DIFFFLOW_EDU_DATA", raising=False)
    monkeypatch.setenv("DIFFFLOW_EDU_PROGRESS", "0")
    for module in (download, tabular):
        monkeypatch.setattr(module, "cache_folder", lambda: tmp_path / "cache")

    def refused(*args, **kwargs):
        raise ConnectionError("no network in tests")

    monkeypatch.setattr("requests.get", refused)
    return tmp_path


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# The rules ----------------------------------------------------------------------------------------


def maf_power(data):
    """The rule as the MAF paper's code states it, step by step, on a copy."""
    rng = np.random.RandomState(42)
    data = data.copy()
    rng.shuffle(data)
    n = len(data)
    data = np.delete(np.delete(data, 3, axis=1), 1, axis=1)
    voltage, gap, meters = 0.01 * rng.rand(n, 1), 0.001 * rng.rand(n, 1), rng.rand(n, 3)
    return data + np.hstack([gap, voltage, meters, np.zeros((n, 1))])


def test_power_is_shuffled_with_seed_42_and_dequantised_as_published():
    data = np.random.default_rng(0).integers(0, 50, (1000, 8)).astype(np.float64)
    train, validation, test = tabular.power(data)
    assert [rows.shape for rows in (train, validation, test)] == [(810, 6), (90, 6), (100, 6)]
    expected = maf_power(data)
    seen = expected[:900]
    expected = (expected - seen.mean(0)) / seen.std(0)
    # The same sums in float64.
    np.testing.assert_allclose(np.concatenate([train, validation, test]), expected, atol=1e-12)


def test_the_noise_of_power_fills_the_steps_of_its_meters_and_leaves_the_time_alone():
    data = np.zeros((2000, 8))
    data[:, 7] = np.arange(2000)  # a constant time would be all zeros after the z-score
    train, validation, test = tabular.power(data)
    rows = np.concatenate([train, validation, test])
    # Uniform noise has a range of √12 standard deviations whatever its width; time stays a grid.
    assert np.ptp(rows[:, :5], axis=0) == pytest.approx(np.full(5, 12**0.5), rel=0.05)
    steps = np.diff(np.sort(rows[:, 5]))
    assert steps == pytest.approx(np.full(1999, steps[0]), rel=1e-9)


def test_power_leaves_the_published_rows_untouched():
    data = random(100, 8)
    before = data.copy()
    tabular.power(data)
    assert (data == before).all()


def test_the_sizes_of_the_splits_are_the_published_ones():
    for name, whole in (("power", 2_049_280), ("gas", 1_052_065), ("miniboone", 36_488)):
        sizes = tuple(len(rows) for rows in tabular.tail_split(np.empty((whole, 0))))
        assert sizes == tabular.PUBLISHED[name][1:]


def test_the_first_column_correlated_with_another_goes_again_and_again():
    a, b, c = random(500, 3).T
    noisy = a + 1e-3 * random(500, seed=1)
    # a, noisy and a again: the first two go, the last one stays. b has a twin behind it.
    rows = np.stack([a, c, noisy, b, a, 2 * b + 3], 1)
    assert tabular.uncorrelated(rows) == [1, 4, 5]


def test_a_chain_of_correlations_is_broken_where_the_code_of_the_paper_breaks_it():
    """0 ~ 1 ~ 2 but not 0 ~ 2: once 0 has gone, 1 and 2 are still a pair, and 1 goes."""
    a, e = random(20_000, 2).T
    rows = np.stack([a, a + 0.16 * e, a + 0.32 * e], 1)
    above = np.corrcoef(rows.T) > 0.98
    assert above[0, 1] and above[1, 2] and not above[0, 2]
    assert tabular.uncorrelated(rows) == [2]


def test_only_correlation_above_the_limit_counts_not_below_minus_the_limit():
    a = random(100)
    assert tabular.uncorrelated(np.stack([a, -a], 1)) == [0, 1]


def test_a_constant_column_is_correlated_with_none():
    a = random(100)
    assert tabular.uncorrelated(np.stack([np.ones(100), a, a, np.ones(100)], 1)) == [0, 2, 3]


def test_gas_drops_its_three_named_columns_wherever_they_are_and_scales_by_all_rows():
    columns = ["Time", "a", "Eth", "b", "Meth"]
    rows = random(200, 5) * [1, 3, 1, 7, 1] + 5
    splits = tabular.gas(columns, rows)
    assert [part.shape for part in splits] == [(162, 2), (18, 2), (20, 2)]
    whole = np.concatenate(splits)
    assert whole.mean(0) == pytest.approx(np.zeros(2), abs=1e-12)
    assert whole.std(0, ddof=1) == pytest.approx(np.ones(2), abs=1e-12)
    a = rows[:, 1]  # no shuffle: the rows of a time series stay in order
    np.testing.assert_allclose(whole[:, 0], (a - a.mean()) / a.std(ddof=1), atol=1e-12)


def maf_recurs(rows):
    """The rule as the MAF paper's code states it: counts sorted by value, the first one taken."""
    return np.array([sorted(Counter(column).items())[0][1] > 5 for column in rows.T])


def test_a_feature_goes_if_its_smallest_value_recurs_more_than_five_times():
    rows = random(100, 5)
    low = rows.min(0) - 1
    rows[:5, 1] = low[1]  # five times: stays
    rows[:6, 2] = low[2]  # six times: goes
    rows[:50, 3] = rows.max(0)[3] + 1  # often, but not the smallest: stays
    rows[:, 4] = 1.0  # constant: goes
    assert tabular.recurs(rows).tolist() == [False, False, True, False, True]
    assert (tabular.recurs(rows) == maf_recurs(rows)).all()


def hepmass_tables(features=4):
    train, test = random(400, 1 + features), random(300, 2 + features, seed=1)
    for rows in (train, test):
        rows[:, 0] = np.arange(len(rows)) % 2
        rows[:, 1:] = rows[:, 1:] * 3 + 1
    train[train[:, 2] < 0, 2] = 0.0  # its smallest value recurs
    return train, test


def test_hepmass_keeps_the_signal_and_drops_the_last_column_of_the_test_file():
    raw_train, raw_test = hepmass_tables()
    raw_test[:, -1] = 1e6  # "the data set is messed up": this column must be seen nowhere
    train, validation, test = tabular.hepmass(raw_train, raw_test)
    assert [part.shape for part in (train, validation, test)] == [(180, 3), (20, 3), (150, 3)]
    signal = raw_train[raw_train[:, 0] == 1][:, [1, 3, 4]]
    mean, std = signal.mean(0), signal.std(0, ddof=1)
    np.testing.assert_allclose(np.concatenate([train, validation]), (signal - mean) / std)
    background_free = raw_test[raw_test[:, 0] == 1][:, [1, 3, 4]]
    np.testing.assert_allclose(test, (background_free - mean) / std)


def test_hepmass_counts_what_recurs_among_the_signal_of_train_alone():
    raw_train, raw_test = hepmass_tables()
    background = raw_train[:, 0] == 0
    raw_train[background, 3] = -99.0
    raw_test[:, 4] = -99.0
    train, _, test = tabular.hepmass(raw_train, raw_test)
    assert train.shape[1] == 3 and (test[:, 2] == test[0, 2]).all()


def test_hepmass_files_whose_columns_do_not_match_are_refused():
    train, test = hepmass_tables()
    with pytest.raises(ValueError, match="one column more than train, got 5 and 5"):
        tabular.hepmass(train, test[:, :-1])


def test_miniboone_drops_missing_rows_first_and_then_what_recurs():
    rows = random(330, 3)
    rows[::11] = -999.0  # 30 missing rows; were they counted, every feature would recur
    rows[1, 0] = -100.0  # not below −100: stays
    rows[1, 0], rows[2:40, 2] = -100.0, -50.0
    train, validation, test = tabular.miniboone(rows)
    assert [part.shape for part in (train, validation, test)] == [(243, 2), (27, 2), (30, 2)]
    seen = np.concatenate([train, validation])
    assert seen.mean(0) == pytest.approx(np.zeros(2), abs=1e-12)
    assert seen.std(0) == pytest.approx(np.ones(2), abs=1e-12)
    again = tabular.miniboone(np.concatenate([seen, test]))  # the archive's file is already clean
    assert again[0].shape == train.shape


def test_a_column_that_never_changes_becomes_zero_not_nan():
    rows = np.stack([np.full(10, 7.0), np.arange(10.0)], 1)
    train, validation, test = tabular.standardised(rows[:6], rows[6:8], rows[8:])
    assert (train[:, 0] == 0).all() and np.isfinite(test).all()


def test_patches_are_dequantised_and_centred_and_lose_their_last_pixel():
    pixels = np.random.default_rng(0).integers(0, 256, (500, 8, 8), np.uint8)
    x = tabular.patches(pixels, np.random.default_rng(1))
    assert x.shape == (500, 63) and x.dtype == np.float32
    whole = np.concatenate(
        [x, -x.sum(1, keepdims=True)], 1
    )  # the mean is 0: the last pixel is back
    levels = pixels.reshape(500, 64) / 256
    noise = whole - (levels - levels.mean(1, keepdims=True))
    # Uniform on a level of 1/256 less its mean over 64 pixels: variance (1 − 1/64)/12 levels².
    assert noise.var() * 256**2 == pytest.approx((1 - 1 / 64) / 12, rel=0.03)
    assert np.abs(noise).max() < 1 / 256


# The archive --------------------------------------------------------------------------------------


def old_pickle(columns, blocks):
    """A table pickled as pandas 0.19 did under Python 2: its modules, its layout, protocol 2."""
    modules = ["pandas", "pandas.core", "pandas.core.frame", "pandas.core.internals"]
    modules += ["pandas.indexes", "pandas.indexes.base"]
    saved = {name: sys.modules.get(name) for name in modules}
    made = {name: types.ModuleType(name) for name in modules}

    def plain(name, module):
        kind = type(name, (), {"__module__": module})
        setattr(made[module], name, kind)
        return kind

    frame_kind = plain("DataFrame", "pandas.core.frame")
    manager_kind = plain("BlockManager", "pandas.core.internals")
    index_kind = plain("Index", "pandas.indexes.base")

    def _new_index(kind, entries): ...

    _new_index.__module__, _new_index.__qualname__ = "pandas.indexes.base", "_new_Index"
    made["pandas.indexes.base"]._new_Index = _new_index

    def index(values):
        one = index_kind()
        one.values = values
        return one

    length = blocks[0][0].shape[1]
    axes = [index(np.array(columns, object)), index(np.arange(length))]
    state = {"axes": axes, "blocks": [{"values": v, "mgr_locs": at} for v, at in blocks]}
    manager, frame = manager_kind(), frame_kind()
    index_kind.__reduce__ = lambda self: (
        _new_index,
        (index_kind, {"data": self.values, "name": None}),
    )
    manager_kind.__getstate__ = lambda self: (axes, [], [], {"0.14.1": state})
    frame_kind.__getstate__ = lambda self: {"_data": manager, "_typ": "dataframe", "_metadata": []}
    sys.modules.update(made)
    try:
        return pickle.dumps(frame, protocol=2)
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def test_a_table_pickled_by_an_old_pandas_is_read_column_by_column(tmp_path):
    values = random(3, 5).astype(np.float32)
    blocks = [(values[:2], np.array([2, 0])), (values[2:], slice(1, 2, 1))]
    path = tmp_path / "table.pickle"
    path.write_bytes(old_pickle(["Time", "a", "b"], blocks))
    columns, rows = read_frame(path)
    assert columns == ["Time", "a", "b"]
    np.testing.assert_array_equal(rows, np.stack([values[1], values[2], values[0]], 1))


def test_a_pickle_that_would_run_code_is_refused_before_it_runs(tmp_path):
    path = tmp_path / "table.pickle"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was_run"),)

    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(pickle.UnpicklingError, match="mkdir"):
        read_frame(path)
    assert not (tmp_path / "was_run").exists()


def test_a_pickle_of_something_else_is_refused(tmp_path):
    path = tmp_path / "table.pickle"
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(pickle.UnpicklingError, match="no pandas table of a known layout"):
        read_frame(path)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def csv(rows):
    head = ",".join(["# label", *(f"f{i}" for i in range(rows.shape[1] - 1))])
    lines = [",".join(repr(float(v)) for v in row) for row in rows]
    return "\n".join([head, *lines, ""]).encode()


def hdf5(**arrays):
    h5py = pytest.importorskip("h5py", reason="BSDS300 is HDF5; h5py is in the extra 'tabular'")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return buffer.getvalue()


def small_files():
    """The files of the archive, a few hundred rows each, and the splits they should make."""
    train, test = hepmass_tables()
    shipped = {n: random(k, 4).astype(np.float32) for n, k in (("train", 40), ("validation", 5))}
    shipped["test"] = random(9, 4, seed=3).astype(np.float32)
    power, sensors, boone = random(200, 8), random(5, 200), random(200, 3)
    columns = ["Time", "Meth", "Eth", "R1", "R2"]
    files = {
        "data/power/data.npy": npy(power),
        "data/gas/ethylene_CO.pickle": old_pickle(columns, [(sensors, slice(0, 5, 1))]),
        "data/hepmass/1000_train.csv": csv(train),
        "data/hepmass/1000_test.csv": csv(test),
        "data/miniboone/data.npy": npy(boone),
        "data/BSDS300/BSDS300.hdf5": hdf5(**shipped),
        "data/mnist/other.bin": b"not ours",
        "data/power/._data.npy": b"what macOS leaves in archives",
    }
    splits = {
        "power": tabular.power(power),
        "gas": tabular.gas(columns, sensors.T),
        "hepmass": tabular.hepmass(train, test),
        "miniboone": tabular.miniboone(boone),
        "bsds300": (shipped["train"], shipped["validation"], shipped["test"]),
    }
    return files, splits


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small archive in the layout of the real one: its path, its checksum, its splits."""
    files, splits = small_files()
    path = tmp_path_factory.mktemp("published") / "data.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path, "md5:" + hashlib.md5(path.read_bytes()).hexdigest(), splits, files


@pytest.fixture
def archive(published, monkeypatch):
    """The small archive in place of the real one, and a server that counts its visitors."""
    path, checksum, splits, files = published
    remote = download.Remote("data.tar.gz", "https://example.org/data.tar.gz", checksum, "2 kB")
    monkeypatch.setattr(tabular, "ARCHIVE", remote)
    sizes = {n: (s[0].shape[1], *(len(part) for part in s)) for n, s in splits.items()}
    monkeypatch.setattr(tabular, "PUBLISHED", sizes)
    server = types.SimpleNamespace(path=path, splits=splits, files=files, visits=0)

    def serve(self, url, output_file, pooch, **kwargs):
        assert url == remote.url
        server.visits += 1
        shutil.copy(server.path, output_file)

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", serve)
    return server


@pytest.mark.parametrize("name", ["power", "gas", "hepmass", "miniboone", "bsds300"])
def test_each_set_comes_out_of_the_archive_as_its_rule_says(archive, name):
    data = tabular.load(name)
    for split, expected in zip(("train", "validation", "test"), archive.splits[name], strict=True):
        rows = getattr(data, split)
        assert isinstance(rows, np.memmap) and rows.dtype == np.float32
        # float32 of values of order one. CSV holds the shortest digits that give the same double.
        np.testing.assert_allclose(rows, expected, atol=1e-6)
    assert data.dim == tabular.PUBLISHED[name][0]
    assert data.source == "data.tar.gz"


def test_the_archive_is_downloaded_once_and_prepared_sets_need_it_no_more(archive, elsewhere):
    first = tabular.load("power")
    tabular.load("miniboone")
    assert archive.visits == 1
    (elsewhere / "cache" / "data.tar.gz").unlink()
    again = tabular.load("power")
    assert archive.visits == 1
    assert (again.train == first.train).all()


def test_nothing_half_written_is_left_behind(archive, elsewhere):
    tabular.load("gas")
    assert sorted(p.name for p in (elsewhere / "cache").iterdir()) == ["data.tar.gz", "tabular"]
    assert [p.name for p in (elsewhere / "cache" / "tabular").iterdir()] == ["gas"]


def test_a_preparation_that_fails_leaves_no_set_behind(archive, elsewhere, monkeypatch):
    save = np.save

    def full(path, rows):
        if Path(path).name == "test.npy":
            raise OSError("no space left on device")
        save(path, rows)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="no space"):
        tabular.load("power")
    assert list((elsewhere / "cache" / "tabular").iterdir()) == []
    monkeypatch.setattr(np, "save", save)
    assert len(tabular.load("power").train) == 162


def test_a_data_folder_with_the_archive_is_looked_at_before_any_download(
    archive, elsewhere, monkeypatch
):
    shutil.copy(archive.path, elsewhere / "data.tar.gz")
    monkeypatch.setenv("DIFFFLOW_EDU_DATA", str(elsewhere))
    tabular.load("power")
    assert archive.visits == 0


@pytest.mark.parametrize("root", [".", "data"])
def test_a_data_folder_with_the_extracted_files_does_too(archive, elsewhere, monkeypatch, root):
    for name, content in archive.files.items():
        path = elsewhere / "mine" / root / Path(name).relative_to("data")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setenv("DIFFFLOW_EDU_DATA", str(elsewhere / "mine"))
    data = tabular.load("hepmass")
    assert archive.visits == 0
    np.testing.assert_allclose(data.test, archive.splits["hepmass"][2], atol=1e-6)


def test_files_that_make_other_splits_than_published_are_not_used(archive, elsewhere, monkeypatch):
    path = elsewhere / "mine" / "power" / "data.npy"
    path.parent.mkdir(parents=True)
    path.write_bytes(npy(random(100, 8)))
    monkeypatch.setenv("DIFFFLOW_EDU_DATA", str(elsewhere / "mine"))
    with pytest.raises(DataError, match=r"not the published ones.*81, 6.*instead of.*162, 6"):
        tabular.load("power")
    assert not (elsewhere / "cache" / "tabular" / "power").exists()


def test_a_download_with_another_checksum_is_kept_aside_and_not_used(archive, elsewhere, tmp_path):
    good = archive.path
    archive.path = tmp_path / "broken"
    archive.path.write_bytes(good.read_bytes()[:-20])
    with pytest.raises(DataError, match="was not used, and is kept as .*data.tar.gz.bad") as error:
        tabular.load("power")
    assert tabular.ARCHIVE.checksum in str(error.value) and tabular.ARCHIVE.url in str(error.value)
    cache = elsewhere / "cache"
    assert [p.name for p in cache.iterdir()] == ["data.tar.gz.bad"]
    assert (cache / "data.tar.gz.bad").read_bytes() == archive.path.read_bytes()
    archive.path = good  # and the next call downloads it anew
    assert len(tabular.load("power").train) == 162


def test_a_file_of_yours_with_another_checksum_is_not_used_and_stays(
    archive, elsewhere, monkeypatch
):
    mine = elsewhere / "mine" / "data.tar.gz"
    mine.parent.mkdir()
    mine.write_bytes(b"cut off")
    monkeypatch.setenv("DIFFFLOW_EDU_DATA", str(mine.parent))
    with pytest.raises(DataError, match="not the published data.tar.gz.*was not used"):
        tabular.load("power")
    assert mine.read_bytes() == b"cut off" and archive.visits == 0


def test_without_a_network_the_error_says_which_file_from_where_and_where_to_put_it(elsewhere):
    with pytest.raises(DataError) as error:
        tabular.load("power")
    message = str(error.value)
    for part in (
        "data.tar.gz (817 MB)",
        "DIFFFLOW_EDU_DATA (not set)",
        "https://zenodo.org/records/1161203/files/data.tar.gz?download=1 (no network in tests)",
        f"put it into {elsewhere / 'cache'}, or as data.tar.gz into any folder",
    ):
        assert part in message
    assert list((elsewhere / "cache").iterdir()) == []


def test_an_archive_put_into_the_cache_by_hand_is_enough(archive, elsewhere):
    (elsewhere / "cache").mkdir()
    shutil.copy(archive.path, elsewhere / "cache" / "data.tar.gz")
    tabular.load("power")
    assert archive.visits == 0


def test_a_data_folder_that_is_none_is_named(monkeypatch, elsewhere):
    monkeypatch.setenv("DIFFFLOW_EDU_DATA", str(elsewhere / "nowhere"))
    with pytest.raises(DataError, match="DIFFFLOW_EDU_DATA must name a folder, got .*nowhere"):
        tabular.load("power")


def test_a_damaged_cache_says_what_to_delete(archive, elsewhere):
    tabular.load("power")
    path = elsewhere / "cache" / "tabular" / "power" / "train.npy"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="power is damaged .*Delete it and load again"):
        tabular.load("power")


def test_changing_a_loaded_array_changes_neither_the_file_nor_the_next_load(archive):
    data = tabular.load("power")
    data.train[:] = 7.0
    assert not (tabular.load("power").train == 7.0).any()


def test_an_unknown_set_is_named_with_the_nearest_known_one():
    with pytest.raises(ValueError, match="unknown tabular set 'Power': did you mean 'power'"):
        tabular.load("Power")


# Patches and small sets ---------------------------------------------------------------------------


def save_patches(path, seed=0, **replace):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    sizes = {"train": 300, "validation": 20, "test": 40}
    arrays = {name: rng.integers(0, 256, (n, 8, 8), np.uint8) for name, n in sizes.items()}
    np.savez(path, **(arrays | replace))


def test_patches_come_from_the_data_folder_or_a_folder_inside_it(elsewhere, monkeypatch):
    save_patches(elsewhere / "mine" / "bsds300" / "bsds300_patches_u8.npz")
    for folder in ("mine", "mine/bsds300"):
        monkeypatch.setenv("DIFFFLOW_EDU_DATA", str(elsewhere / folder))
        data = tabular.load("bsds300_patches")
        assert (data.train.shape, data.test.shape) == ((300, 63), (40, 63))
        assert data.source == "bsds300_patches_u8.npz" and isinstance(data.train, np.memmap)


def test_the_whole_set_of_patches_is_preferred_to_the_cut_and_a_new_file_is_read_anew(
    elsewhere, monkeypatch
):
    monkeypatch.setenv("DIFFFLOW_EDU_DATA", str(elsewhere / "mine"))
    save_patches(elsewhere / "mine" / "bsds300_ci.npz")
    cut = tabular.load("bsds300_patches")
    assert cut.source == "bsds300_ci.npz"
    save_patches(elsewhere / "mine" / "bsds300_patches_u8.npz", seed=1)
    whole = tabular.load("bsds300_patches")
    assert whole.source == "bsds300_patches_u8.npz"
    assert not (whole.train == cut.train).any()


def test_patches_that_are_nowhere_or_of_another_shape_are_explained(elsewhere, monkeypatch):
    with pytest.raises(DataError, match="bsds300_patches_u8.npz is not in DIFFFLOW_EDU_DATA"):
        tabular.load("bsds300_patches")
    monkeypatch.setenv("DIFFFLOW_EDU_DATA", str(elsewhere))
    path = elsewhere / "bsds300_ci.npz"
    save_patches(path, train=np.zeros((5, 64), np.uint8))
    with pytest.raises(DataError, match=r"train in .*must be uint8 \(n, 8, 8\), got uint8 \(5, 64"):
        tabular.load("bsds300_patches")
    np.savez(path, train=np.zeros((5, 8, 8), np.uint8))
    with pytest.raises(DataError, match="has no array named validation, test"):
        tabular.load("bsds300_patches")


@pytest.mark.parametrize(("name", "dim"), [("digits", 64), ("wine", 13), ("breast_cancer", 30)])
def test_the_small_sets_are_standardised_split_and_the_same_every_time(name, dim):
    data, again = tabular.load(name), tabular.load(name)
    assert data.dim == dim and data.train.dtype == np.float32
    assert (data.train == again.train).all() and (data.test == again.test).all()
    seen = np.concatenate([data.train, data.validation])
    # Sums of a few hundred float32.
    assert seen.mean(0) == pytest.approx(np.zeros(dim), abs=1e-5)
    assert seen.std(0) == pytest.approx(np.ones(dim), abs=1e-5)
    rows = {row.tobytes() for row in seen}
    assert not any(row.tobytes() in rows for row in data.test)


def test_digits_are_dequantised_so_that_they_have_a_density():
    data = tabular.load("digits")
    assert (np.unique(data.train, axis=0, return_counts=True)[1] == 1).all()
    assert all(len(np.unique(column)) > 1000 for column in data.train.T)


def test_a_set_says_what_it_is():
    assert repr(tabular.load("wine")) == (
        "Tabular(wine, 145 + 16 + 17 rows of 13 numbers, from scikit-learn)"
    )


# Memory -------------------------------------------------------------------------------------------


class Shift(Process):
    """The cheapest process there is: a Gaussian with a learned mean."""

    def __init__(self, dim):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dim))

    def bound(self, x):
        return 0.5 * (x - self.mean).square().sum(1)


class LargeResults(TorchDispatchMode):
    """Every operation whose result is as large as the data."""

    def __init__(self, size):
        super().__init__()
        self.size, self.found = size, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        held = {t.data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.data_ptr() not in held:
                if tensor.numel() * tensor.element_size() >= self.size:
                    self.found.append(str(function))
        return result


def test_memory_mapped_rows_are_trained_on_where_they_lie(archive, monkeypatch):
    """`fit` draws from the mapped file itself, and makes at most one passing copy of it."""
    data = tabular.load("bsds300")
    drawn_from = []
    batch = fit_data.Rows.batch
    monkeypatch.setattr(
        fit_data.Rows,
        "batch",
        lambda rows, n: drawn_from.append(rows.data.data_ptr()) or batch(rows, n),
    )
    with LargeResults(data.train.nbytes) as large:
        fit(Shift(4), data.train, steps=3, batch_size=4)
    assert set(drawn_from) == {data.train.ctypes.data}
    assert len(large.found) <= 1, large.found


# The baseline -------------------------------------------------------------------------------------


def correlated(n=4000, seed=0):
    mixing = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [-1.0, 0.2, 0.1]])
    noise = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return noise @ mixing.T + torch.tensor([1.0, -2.0, 3.0])


def test_the_gaussian_has_the_log_density_of_torch():
    x = correlated().double()
    ours = tabular.Gaussian.of(x)
    centred = x - x.mean(0)
    oracle = torch.distributions.MultivariateNormal(x.mean(0), centred.T @ centred / len(x))
    # Two ways to the same float64 numbers.
    assert torch.allclose(ours.log_prob(x), oracle.log_prob(x), atol=1e-9)


def test_whitened_rows_have_unit_covariance_and_come_back():
    x = correlated()
    gaussian = tabular.Gaussian.of(x)
    z = gaussian.whiten(x)
    assert z.dtype == torch.float32
    # The covariance is that of these very rows; what is left is float32 rounding.
    assert torch.allclose(torch.cov(z.T, correction=0), torch.eye(3), atol=1e-4)
    assert torch.allclose(gaussian.unwhiten(z), x, atol=1e-5)


def test_whitening_is_a_flow_layer_with_the_stated_log_determinant():
    x = correlated(n=50).double()
    gaussian = tabular.Gaussian.of(x)
    jacobian = torch.autograd.functional.jacobian(lambda v: gaussian.whiten(v[None])[0], x[0])
    assert gaussian.log_det == pytest.approx(-jacobian.det().abs().log().item(), abs=1e-10)


def test_the_gaussian_of_an_array_read_in_pieces_is_that_of_the_whole(monkeypatch):
    x = correlated(n=1000)
    whole = tabular.Gaussian.of(x)
    monkeypatch.setattr(tabular, "_PIECE", 77)
    pieces = tabular.Gaussian.of(x.numpy())
    assert torch.allclose(whole.factor, pieces.factor, atol=1e-12)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.ones(100, 3), "covariance of rows is singular"),
        (torch.randn(3, 3), r"n > d, got torch.float32 \(3, 3\)"),
        (torch.ones(9, 2, dtype=torch.int64), "floating point"),
    ],
    ids=["flat", "few", "whole"],
)
def test_rows_without_a_gaussian_density_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        tabular.Gaussian.of(rows)


# The benchmark ------------------------------------------------------------------------------------


def test_early_stopping_keeps_the_best_weights_and_ends_when_patience_is_over():
    """The mean wanders past the truth, 0: the best look is the third, two later training ends."""
    model, rows = Shift(2), torch.zeros(10, 2)
    looks = benchmark.EarlyStopping(model, rows, patience=2)
    means = iter([2.0, 1.0, 0.5, 3.0, 4.0])
    with pytest.raises(benchmark.EnoughError):
        for step in range(5):
            model.mean.data.fill_(next(means))
            looks(step, model)
    assert looks.curve == [4.0, 1.0, 0.25, 9.0, 16.0]
    assert looks.weights["mean"].tolist() == [0.5, 0.5]


def test_the_results_of_the_benchmark_keep_earlier_models_of_a_set(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "tabular.json")
    measured = {"nats": 1.0, "error": 0.1, "gain": 2.0, "gain_error": 0.1, "rows": 5}
    for name in ("coupling", "diffflow"):
        record = {"test": measured, "cpu_seconds": 3}
        benchmark.write("wine", {"note": "few", "models": {name: record}})
    text = benchmark.table(json.loads(benchmark.RESULTS.read_text()))
    assert "coupling" in text and "diffflow" in text and "gain    2.00" in text
