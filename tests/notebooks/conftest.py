"""A tiny notebook that keeps every convention, for tests that then break one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tools.build_notebooks import build

TEXT = '''\
# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tiny notebook
#
# It keeps every promise it makes.
#
# ## What you will learn
# - one
# - two
# - three
#
# **Time and memory:** 1 s, 100 MB.
#
# **Predict** the square of 1.5.

# %%
import os
import time
from types import SimpleNamespace

from IPython.display import Image, display


def check_two(answer):
    """Stands in for diffflow_edu.exercises, which has no such easy question."""
    print("yes" if answer == 2 else "not yet: count again")
    return answer == 2


exercises = SimpleNamespace(check_two=check_two)
start = time.perf_counter()
print(f"square: {1.5**2:.2f}")
print("GPUs to see:", os.environ["CUDA_VISIBLE_DEVICES"] or "none")

# %%
print(f"took {time.perf_counter() - start:.6f} s")
print(f"trained to ≈{time.perf_counter():.6f} nats")
dot = bytes.fromhex(
    "89504e470d0a1a0a0000000d494844520000000100000001010300000025db56ca00000003504c54"
    "45000000a77a3dda0000000a4944415478da6360000000020001e527defc0000000049454e44ae42"
    "6082"
)
display(Image(dot, format="png"))

# %% [markdown]
# The picture shows nothing. **Explain** why.
'''

EXERCISE = """
# %% tags=["exercise"]
answer = None

# %% tags=["check"]
exercises.check_two(answer)

# %% jupyter={"source_hidden": true} tags=["solution"]
answer = 2
exercises.check_two(answer)
"""

ENDING = """
# %% [markdown]
# ## What to remember
# The square of 1.5.
#
# ## References
# Equation 1.
"""


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny notebook, built the way the course's are."""
    source = tmp_path_factory.mktemp("tiny") / "00_tiny.py"
    source.write_text(TEXT + 3 * EXERCISE + ENDING, "utf-8")
    build(source)
    return source.with_suffix(".ipynb")


@pytest.fixture
def tiny(built_once: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pair that a test may break; the path is the .ipynb's."""
    for suffix in (".py", ".ipynb"):
        shutil.copy(built_once.with_suffix(suffix), tmp_path)
    return tmp_path / built_once.name
