"""Binder can read its files: repo2docker's own dry run, without Docker and without a network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What repo2docker would build from the files it reads (a copy: .venv would be walked too)."""
    pytest.importorskip("repo2docker", reason="jupyter-repo2docker is not installed")
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "binder", tree / "binder")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tree)
    command = [sys.executable, "-m", "repo2docker", "--no-run", "--no-build", "--debug", "."]
    result = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_binder_takes_the_stated_python_and_the_requirements(dry_run: str):
    version = (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    assert f"python={version}" in dry_run
    assert 'pip install --no-cache-dir -r "binder/requirements.txt"' in dry_run


def test_binder_installs_after_the_repository_is_there(dry_run: str):
    # "." and the constraints are local: installing before the copy would find neither.
    copied = dry_run.index("COPY --chown=0:0 src/ ${REPO_DIR}/")
    assert dry_run.index("pip install --no-cache-dir -r") > copied


def test_binder_runs_jupyter_with_the_settings_of_make_lab(dry_run: str):
    assert "RUN ./binder/postBuild" in dry_run
    script = (ROOT / "binder" / "postBuild").read_text()
    assert "cp -R tools/jupyter/. " in script
    assert "cp -R tools/jupyter/. .venv/etc/jupyter/" in (ROOT / "Makefile").read_text()


def test_binder_installs_the_package_under_the_pins():
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    assert "." in lines
    assert "-c ../constraints.txt" in lines
    assert (ROOT / "binder" / "../constraints.txt").exists()
