"""The wheel holds what the package needs at run time, and works far from the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    result = subprocess.run(
        [str(each) for each in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that no older build folder can lend it files, and without a network."""
    tree = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "diffflow_edu", tree / "diffflow_edu", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=tree)
    (path,) = (tree / "dist").glob("*.whl")
    return path


def test_the_wheel_holds_the_player_and_the_weights(wheel: Path):
    held = set(zipfile.ZipFile(wheel).namelist())
    for pattern in ("player/*.js", "weights/*.safetensors"):
        needed = [str(path.relative_to(ROOT)) for path in (ROOT / "diffflow_edu").glob(pattern)]
        assert needed, f"the tree has no {pattern}"
        assert held >= set(needed)


def test_the_wheel_holds_every_module_and_nothing_but_the_package(wheel: Path):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "diffflow_edu").rglob("*.py")}
    assert held >= modules
    assert {name.partition("/")[0] for name in held} == {"diffflow_edu"}


def test_a_pretrained_model_loads_from_the_installed_wheel_in_another_folder(
    wheel: Path, tmp_path: Path
):
    clean = tmp_path / "clean"
    venv.create(clean, symlinks=os.name != "nt")
    python = clean / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)

    # torch and friends are lent by the running environment, behind the wheel on the path. Its own
    # .pth files, hence an editable installation of this project, are not read from there.
    paths = sysconfig.get_paths()
    site = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path
    ).strip()
    lent = sorted({paths["purelib"], paths["platlib"]})
    (Path(site) / "lent.pth").write_text("\n".join(lent) + "\n", "utf-8")

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        "import diffflow_edu\n"
        "model = diffflow_edu.pretrained('diffflow', 'olympic_rings')\n"
        "print(diffflow_edu.__file__)\n"
        "print(tuple(model.sample(3, seed=0).start.shape))\n"
    )
    file, shape = run(python, "-c", code, cwd=elsewhere).strip().splitlines()[-2:]
    assert Path(file).is_relative_to(site)
    assert shape == "(3, 2)"
