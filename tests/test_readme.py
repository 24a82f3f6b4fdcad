"""What the README says is what the repository does."""

from __future__ import annotations

import re

import pytest
import torch

from diffflow_edu import metrics
from tools import readme


@pytest.fixture(scope="module")
def page() -> str:
    return readme.README.read_text()


def test_the_readme_example_learns_the_points(page):
    names: dict = {}
    exec(readme.example(page), names)
    points = readme.to_tensor(names["points"])
    learned = metrics.sliced_w2(names["model"].sample(2000, seed=1).start, points)
    noise = metrics.sliced_w2(torch.randn(2000, 2), points)
    assert learned < 0.3 * noise  # measured: .05 against .4


def test_the_tables_of_the_readme_are_those_of_the_cards_and_results(page):
    assert readme.rewritten(page) == page, "run python -m tools.readme"


def test_the_files_that_the_readme_names_exist(page):
    named = re.findall(r"\]\(([^)#]+)\)", page)
    local = [name for name in named if "://" not in name]
    assert len(local) >= 4
    assert [name for name in local if not (readme.ROOT / name).exists()] == []
