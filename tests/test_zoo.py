"""Weights that come with the package: they load, they say what they are, they are checked."""

import json
import re

import pytest
import torch

from diffflow_edu import CNF, DDPM, CouplingFlow, DiffFlow, Schedule, images, pretrained, zoo
from diffflow_edu.evaluation import evaluate
from diffflow_edu.processes import NCSN

KINDS = ("diffflow", "ddpm")
DENSITIES = ("olympic_rings", "four_rings", "rotated_gaussian", "checkerboard")
SHIPPED = [(k, d, n) for k in KINDS for d in DENSITIES for n in (5, 10, 30)]
SHIPPED += [(k, "eight_gaussians", 30) for k in KINDS]
SHIPPED += [
    (kind, density, steps)
    for kind, steps in (("coupling", 8), ("cnf", 30), ("ncsn", 30))
    for density in ("olympic_rings", "checkerboard", "rotated_gaussian")
]
TYPES = {
    "diffflow": DiffFlow,
    "ddpm": DDPM,
    "coupling": CouplingFlow,
    "cnf": CNF,
    "ncsn": NCSN,
}


def recipe(kind="diffflow", hidden=8):
    return {
        "kind": kind,
        "schedule": ["log_snr", {"steps": 3, "r_min": 0.1}],
        "hidden": hidden,
        "learn_backward_std": True,
    }


@pytest.fixture
def saved(tmp_path):
    """A small model with weights of its own, and its file."""
    torch.manual_seed(0)
    model = zoo.build(recipe())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    path = tmp_path / "diffflow-ring-3.safetensors"
    zoo.save_model(path, model, {"recipe": recipe(), "command": "make it"})
    return model.eval(), path


def test_weights_in_half_the_bits_compute_in_32_and_keep_noise_and_scale_exact(saved, tmp_path):
    model, whole = saved
    model.set_standardisation(torch.tensor([0.3, 1 / 3]), 1 / 7)
    path = tmp_path / "half.safetensors"
    zoo.save_model(path, model, {"recipe": recipe()}, half=True)
    again = zoo.load(path)
    kept = ("log_b_ratio", "data_mean", "data_scale")
    for name, value in model.state_dict().items():
        found = again.state_dict()[name]
        assert found.dtype == value.dtype
        if name in kept:
            assert torch.equal(found, value)
        else:
            torch.testing.assert_close(found, value, rtol=2**-8, atol=0)
    assert path.stat().st_size < whole.stat().st_size


@pytest.mark.parametrize(("kind", "density", "steps"), SHIPPED)
def test_every_promised_model_is_shipped_and_samples(kind, density, steps):
    model = pretrained(kind, density, steps=steps)
    assert type(model) is TYPES[kind] and not model.training
    assert f"{kind}/{density}/{steps}" in zoo.names()
    assert all(value.isfinite().all() for value in model.state_dict().values())
    path = model.sample(10, seed=0)
    assert path.start.shape == (10, 2) and len(path) == steps + 1


def test_without_steps_the_longest_chain_is_loaded():
    assert pretrained("diffflow", "olympic_rings").schedule.steps == 30


def test_a_card_says_how_its_weights_were_made():
    for name in zoo.names():
        kind, density, steps = name.split("/")
        card = pretrained(kind, density, int(steps)).card
        assert card["recipe"]["kind"] == kind
        assert {"command", "commit"} <= card.keys(), name


def test_a_saved_model_comes_back_with_its_bound_its_samples_and_its_card(saved):
    model, path = saved
    again = zoo.load(path)
    x, noise = torch.randn(5, 2), torch.randn(3, 5, 2)
    assert torch.equal(again.bound(x, noise), model.bound(x, noise))
    assert torch.equal(again.sample(5, seed=1).states, model.sample(5, seed=1).states)
    assert again.card == json.loads(json.dumps({"recipe": recipe(), "command": "make it"}))
    assert not again.training
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kept", [0, 4, 200, -1])
def test_a_truncated_weights_file_is_named_with_what_to_do(saved, kept):
    _, path = saved
    path.write_bytes(path.read_bytes()[:kept])
    message = f"weights file {re.escape(str(path))} cannot be used: .*reinstall the package"
    with pytest.raises(zoo.WeightsError, match=message):
        zoo.load(path)
    assert issubclass(zoo.WeightsError, ValueError)


def test_weights_of_another_architecture_than_their_card_says_are_named(saved):
    model, path = saved
    zoo.save_model(path, model, {"recipe": recipe(hidden=9)})
    with pytest.raises(zoo.WeightsError, match="size mismatch"):
        zoo.load(path)


def test_a_safetensors_file_without_a_card_is_named(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "plain.safetensors"
    save_file({"w": torch.zeros(2)}, path)
    with pytest.raises(zoo.WeightsError, match=r"plain.safetensors cannot be used"):
        zoo.load(path)


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"hidden": 30_000}, "hidden is 30000, and the file holds 10000 at most"),
        ({"hidden": 9_999}, r"size mismatch for drift.layers.0.weight: \(8, 26\) in the file"),
        ({"schedule": ["log_snr", {"steps": 10**8}]}, "steps is 100000000"),
        ({"schedule": ["log_snr", {"steps": 9_999}]}, r"log_b_ratio: \(3,\) in the file"),
        ({"schedule": ["at", {}]}, "schedule must be of log_snr, .*got 'at'"),
        ({"schedule": None}, "cannot be used"),
        ({"kind": "coupling", "model": {"layers": 10**9}}, "layers is 1000000000"),
        ({"kind": "cnf", "model": {"frames": 10**12}}, "frames is 1000000000000"),
        ({"kind": "ncsn", "model": {"levels": 10**8}}, "levels is 100000000"),
        ({"kind": ["diffflow"]}, "cannot be used"),
        ({"size": "huge", "shape": [1, 8, 8]}, "size must be one of"),
    ],
)
def test_a_card_that_claims_what_its_file_cannot_hold_is_refused_before_it_is_made(
    saved, claim, message
):
    model, path = saved
    zoo.save_model(path, model, {"recipe": recipe() | claim})
    with pytest.raises(zoo.WeightsError, match=message):
        zoo.load(path)


@pytest.mark.parametrize("part", ["kind", "schedule", "hidden", "learn_backward_std"])
def test_a_recipe_that_is_not_whole_says_what_it_lacks(saved, part):
    model, path = saved
    plan = recipe()
    del plan[part]
    zoo.save_model(path, model, {"recipe": plan})
    with pytest.raises(zoo.WeightsError, match=f"the recipe lacks '{part}'"):
        zoo.load(path)


def test_a_file_that_is_not_there_is_said_so_with_the_nearest_that_is(saved):
    _, path = saved
    meant = re.escape(str(path))
    with pytest.raises(zoo.WeightsError, match=rf"does not exist\. Did you mean {meant}\?"):
        zoo.load(path.with_name("diffflow-rings-3.safetensors"))


@pytest.fixture
def stocked(saved, monkeypatch):
    """A zoo of one model."""
    _, path = saved
    monkeypatch.setattr(zoo, "FOLDER", path.parent)


@pytest.mark.usefixtures("stocked")
def test_unknown_names_list_the_known_ones_and_the_nearest():
    assert zoo.names() == ["diffflow/ring/3"]
    with pytest.raises(ValueError, match=r"unknown kind 'difflow'; there are diffflow.*mean 'diff"):
        pretrained("difflow", "ring")
    with pytest.raises(ValueError, match=r"unknown density 'rings'; there are ring.*mean 'ring'"):
        pretrained("diffflow", "rings")
    unshipped = "no weights of kind 'diffflow' are shipped for 'four_rings', only for ring; `fit`"
    with pytest.raises(ValueError, match=unshipped):
        pretrained("diffflow", "four_rings")
    with pytest.raises(ValueError, match=r"steps must be one of \[3\] for diffflow on ring, got 4"):
        pretrained("diffflow", "ring", steps=4)


@pytest.mark.usefixtures("stocked")
def test_names_come_in_order_of_length(saved):
    model, path = saved
    for steps in (10, 5):
        zoo.save_model(path.with_name(f"diffflow-ring-{steps}.safetensors"), model, {})
    assert zoo.names() == ["diffflow/ring/3", "diffflow/ring/5", "diffflow/ring/10"]


OTHER_RECIPES = {
    CouplingFlow: {"kind": "coupling", "model": {"dim": 2, "layers": 3, "hidden": 8}},
    CNF: {"kind": "cnf", "model": {"hidden": 8, "frames": 3, "kinetic": 0.1}},
    NCSN: {"kind": "ncsn", "model": {"levels": 3, "hidden": 8, "langevin_step": 0.3}},
}


@pytest.mark.parametrize("made", OTHER_RECIPES, ids=lambda made: made.__name__)
def test_every_other_kind_is_built_from_its_arguments_and_comes_back(made, tmp_path):
    plan = OTHER_RECIPES[made]
    torch.manual_seed(0)
    model = zoo.build(plan).eval()
    assert type(model) is made
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    path = tmp_path / f"{plan['kind']}-ring-3.safetensors"
    zoo.save_model(path, model, {"recipe": plan})
    again = zoo.load(path)
    assert type(again) is made and len(again.sample(5, seed=1)) == 4
    assert torch.equal(again.sample(5, seed=1).states, model.sample(5, seed=1).states)
    assert all(again.card["recipe"]["model"][k] == v for k, v in plan["model"].items())


def test_a_recipe_of_an_unknown_kind_is_named_as_of_another_version(saved):
    model, path = saved
    zoo.save_model(path, model, {"recipe": {"kind": "glow", "model": {}}})
    with pytest.raises(zoo.WeightsError, match="'glow'.*of another version"):
        zoo.load(path)


def test_a_recipe_names_a_schedule_and_a_kind():
    model = zoo.build(recipe("ddpm"))
    assert type(model) is DDPM and model.log_b_ratio.requires_grad
    assert repr(model.schedule) == repr(Schedule.log_snr(steps=3, r_min=0.1))


def test_pretrained_knows_its_names():
    assert zoo.pretrained.names() == zoo.names()


def test_steps_that_are_no_whole_number_are_refused():
    with pytest.raises(ValueError, match=r"steps must be a whole number, 1 or more, got 10\.0"):
        zoo.pretrained("diffflow", "olympic_rings", steps=10.0)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mnist14", (1, 14, 14)), ("digits", (1, 8, 8)), ("patches", (3, 8, 8))],
)
def test_image_models_are_shipped_and_measure_what_their_cards_say(name, shape):
    model = pretrained("diffflow", name)
    assert model.schedule.steps == 10 and model.shape == shape
    assert model.sample(2, seed=0).start.shape == (2, *shape)
    (row,) = [row for row in model.card["rows"] if row["steps"] == 10]
    if name == "digits":  # the other needs MNIST itself
        (again,) = evaluate(model, images.load("digits"), n=297)
        # Measured after setting the backward noise anew, from 500 pictures: a hundredth or two.
        assert again.bits_per_dim == pytest.approx(row["bits_per_dim"], abs=0.03)
