"""What is typed into a notebook outlives every editor, git pull, make notebooks and the tests.

The editors are two real Jupyter servers, as `make lab` starts them (jupytext is installed) and as
plain pip does, spoken to through their REST interface as JupyterLab does; VS Code and Colab, which
write the .ipynb and nothing else; and a text editor on the .py.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupytext.config import load_jupytext_configuration_file

from tests.notebooks.checks import complaints_about_pair, course
from tests.servers import start
from tools import build_notebooks
from tools.build_notebooks import WorkWouldBeLostError, bytes_of, edits, main

ROOT = Path(__file__).resolve().parents[1]
TEXT = """\
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
# It asks one question.

# %% tags=["exercise"]
answer = None

# %% tags=["solution"] jupyter={"source_hidden": true}
%time answer = 2

# %% [markdown]
# ## References
# Equation 1.
""".replace("\n%time", "\n# %time")
STUB, ANSWER = "answer = None", "answer = 7 * 6  # my own"
NAME = "00_tiny"


@pytest.fixture(autouse=True)
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building stores sources only: what is typed does not depend on what cells print."""
    monkeypatch.setattr(build_notebooks, "run", lambda notebook, folder: None)


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "core.autocrlf=false"]
    return subprocess.run(
        ["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of a course whose authors have since changed the one notebook it has."""
    upstream = tmp_path_factory.mktemp("upstream")
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    (upstream / "pyproject.toml").write_text(pyproject[pyproject.index("[tool.jupytext]") :])
    shutil.copy(ROOT / ".gitignore", upstream)
    (upstream / "notebooks").mkdir()
    text = upstream / "notebooks" / f"{NAME}.py"
    text.write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_notebooks, "run", lambda notebook, folder: None)
        assert main([str(text)]) == 0
        git(upstream, "init", "-q")
        git(upstream, "add", ".")
        assert git(upstream, "commit", "-qm", "one").returncode == 0
        clone = tmp_path_factory.mktemp("clone") / "student"
        assert git(upstream, "clone", "-q", str(upstream), str(clone)).returncode == 0
        text.write_text(TEXT.replace("Equation 1.", "Equation 2."))
        assert main([str(text)]) == 0
        assert git(upstream, "commit", "-qam", "two").returncode == 0
    return clone


@pytest.fixture
def ipynb(student: Path, tmp_path: Path) -> Path:
    """The notebook in a student's clone of its own; the .py is beside it."""
    shutil.copytree(student, tmp_path / "student")
    return tmp_path / "student" / "notebooks" / f"{NAME}.ipynb"


@dataclass
class Jupyter:
    """A running server that serves every test's temporary folder."""

    url: str
    root: Path

    def ask(self, method: str, path: Path, query: str = "", model: dict | None = None) -> dict:
        address = f"{self.url}/api/contents/{path.relative_to(self.root).as_posix()}{query}"
        data = None if model is None else json.dumps(model).encode()
        request = urllib.request.Request(address, data=data, method=method)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.loads(answer.read())

    def edit(self, path: Path, old: str = "", new: str = "") -> None:
        """Open as a notebook, connect a kernel, type `new` for `old`, save: as JupyterLab does."""
        content = self.ask("GET", path, "?type=notebook&content=1")["content"]
        for cell in content["cells"]:
            cell["source"] = cell["source"].replace(old, new) if old else cell["source"]
        content["metadata"]["kernelspec"] = {
            "display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3",
        }  # fmt: skip
        content["metadata"]["language_info"] = {
            "codemirror_mode": {"name": "ipython", "version": 3}, "file_extension": ".py",
            "mimetype": "text/x-python", "name": "python", "nbconvert_exporter": "python",
            "pygments_lexer": "ipython3", "version": "3.99.9",
        }  # fmt: skip
        content["metadata"]["widgets"] = {
            "application/vnd.jupyter.widget-state+json": {
                "state": {}, "version_major": 2, "version_minor": 0,
            }
        }  # fmt: skip
        self.ask("PUT", path, model={"type": "notebook", "format": "json", "content": content})

    def edit_file(self, path: Path, old: str = "", new: str = "") -> None:
        """Open as a text file, type `new` for `old`, save."""
        content = self.ask("GET", path, "?type=file&format=text&content=1")["content"]
        content = content.replace(old, new) if old else content
        self.ask("PUT", path, model={"type": "file", "format": "text", "content": content})


def serve(room: Path, root: Path, extensions: dict[str, bool]) -> Iterator[Jupyter]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")
    private = {name: str(room / name) for name in names}
    config = room / "JUPYTER_CONFIG_DIR"
    config.mkdir(parents=True)
    (config / "jupyter_server_config.json").write_text(
        json.dumps({"ServerApp": {"jpserver_extensions": extensions}})
    )
    arguments = [
        "--no-browser", "--allow-root",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        "--IdentityProvider.token=", f"--ServerApp.root_dir={root}",
        "--ServerApp.disable_check_xsrf=True",
    ]  # fmt: skip
    variables = {**os.environ, **private, "JUPYTER_CONFIG_PATH": str(ROOT / "tools" / "jupyter")}
    log = (room / "log").open("w+")
    server = start("jupyter_server", *arguments, cwd=room, env=variables, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert server.poll() is None, (room / "log").read_text()
            try:
                urllib.request.urlopen(f"{url}/api/status", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)  # a poll that ends with the server, not a guess at a duration
        yield Jupyter(url, root)
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


OTHERS = {"jupyterlab": False, "jupyter_lsp": False, "notebook_shim": False}


@pytest.fixture(scope="module")
def make_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """The server of `make lab`: jupytext opens a .py as a notebook."""
    room, root = tmp_path_factory.mktemp("make_lab"), tmp_path_factory.getbasetemp()
    for server in serve(room, root, OTHERS):
        yield server
        log = (room / "log").read_text()
        assert "[Jupytext Server Extension] Deriving" in log


@pytest.fixture(scope="module")
def plain_pip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jupyter]:
    """A server without jupytext."""
    room, root = tmp_path_factory.mktemp("plain_pip"), tmp_path_factory.getbasetemp()
    for server in serve(room, root, OTHERS | {"jupyterlab_jupytext": False}):
        yield server
        assert "Jupytext" not in (room / "log").read_text()


def vs_code(ipynb: Path, old: str, new: str) -> None:
    """Write only the .ipynb, with the name of the environment as the kernel's."""
    notebook = json.loads(ipynb.read_text("utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = [line.replace(old, new) for line in cell["source"]]
    notebook["metadata"]["kernelspec"]["display_name"] = ".venv"
    notebook["metadata"]["language_info"]["version"] = "3.99.9"
    ipynb.write_text(json.dumps(notebook, indent=1), "utf-8")


def colab(ipynb: Path, old: str, new: str) -> None:
    """Write only the .ipynb, in an older format: no cell ids, and none but Colab's metadata."""
    notebook = json.loads(ipynb.read_text("utf-8"))
    for number, cell in enumerate(notebook["cells"]):
        cell["source"] = [line.replace(old, new) for line in cell["source"]]
        del cell["id"]
        cell["metadata"]["id"] = f"made-up-{number}"
    notebook["nbformat_minor"] = 0
    notebook["metadata"] = {
        "colab": {"provenance": []},
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python"},
    }
    ipynb.write_text(json.dumps(notebook, indent=2), "utf-8")


def text_editor(text: Path, old: str, new: str) -> None:
    text.write_text(text.read_text("utf-8").replace(old, new), "utf-8")


# Where an answer is typed, and with what: a function of the two servers, and the file's suffix.
EDITORS: dict[str, tuple[Callable[[Jupyter, Jupyter], Callable[[Path, str, str], None]], str]] = {
    "make lab": (lambda lab, pip: lab.edit, ".ipynb"),
    "plain pip": (lambda lab, pip: pip.edit, ".ipynb"),
    "VS Code": (lambda lab, pip: vs_code, ".ipynb"),
    "Colab": (lambda lab, pip: colab, ".ipynb"),
    "make lab, the .py as a notebook": (lambda lab, pip: lab.edit, ".py"),
    "make lab, the .py as a file": (lambda lab, pip: lab.edit_file, ".py"),
    "a text editor": (lambda lab, pip: text_editor, ".py"),
}


@pytest.mark.parametrize("editor", EDITORS)
def test_an_answer_outlives_opening_saving_pulling_and_building_in_any_order(
    editor: str, student: Path, tmp_path: Path, make_lab: Jupyter, plain_pip: Jupyter, capsys
):
    choose, suffix = EDITORS[editor]
    built_once = 0
    for order in itertools.permutations(["reopen", "pull", "make notebooks"]):
        shutil.copytree(student, tmp_path / "student")
        ipynb = tmp_path / "student" / "notebooks" / f"{NAME}.ipynb"
        typed_into, text = ipynb.with_suffix(suffix), ipynb.with_suffix(".py")
        choose(make_lab, plain_pip)(typed_into, STUB, ANSWER)
        for step in order:
            if step == "reopen":
                for each in (make_lab.edit, plain_pip.edit):
                    each(ipynb)
                for each in (make_lab.edit, make_lab.edit_file, plain_pip.edit_file):
                    each(text)
            elif step == "pull":
                refused = git(tmp_path / "student", "pull", "-q", "--ff-only")
                assert "would be overwritten by merge" in refused.stderr
            else:
                status = main([str(text)])
                said = capsys.readouterr().err
                # An answer in the .py is built; one in the .ipynb is kept, and said.
                assert status == (suffix == ".ipynb"), said
                assert (ANSWER in said) == (suffix == ".ipynb")
                built_once += suffix == ".py" and ANSWER in ipynb.read_text("utf-8")
            assert ANSWER in typed_into.read_text("utf-8"), f"{step} in {order}"
            told = complaints_about_pair(ipynb)
            safe = any(f"Your work in {ipynb.name} is safe" in each for each in told)
            assert safe == (suffix == ".ipynb")
        shutil.rmtree(tmp_path / "student")
    assert built_once == (6 if suffix == ".py" else 0)


def test_opening_and_saving_leaves_git_clean(ipynb: Path, make_lab: Jupyter, plain_pip: Jupyter):
    text, clone = ipynb.with_suffix(".py"), ipynb.parents[1]
    for server in (make_lab, plain_pip):
        server.edit(ipynb)
        server.edit_file(text)
        assert git(clone, "status", "--porcelain").stdout == ""
    make_lab.edit(text)
    assert git(clone, "status", "--porcelain").stdout == ""


@pytest.mark.parametrize("suffix", [".ipynb", ".py"])
def test_saving_writes_what_was_typed_and_no_other_line(
    ipynb: Path, make_lab: Jupyter, suffix: str
):
    make_lab.edit(ipynb.with_suffix(suffix), STUB, ANSWER)
    changed = git(ipynb.parents[1], "diff", "-U0").stdout.splitlines()
    lines = [line for line in changed if re.match(r"[-+][^-+]", line)]
    assert [line.strip('-+ #",') for line in lines] == [STUB, ANSWER.strip('-+ #",')]


def test_an_opened_notebook_shows_its_own_cells_whatever_the_dates(ipynb: Path, make_lab: Jupyter):
    vs_code(ipynb, STUB, ANSWER)
    for first, second in ((0, 2_000_000_000), (2_000_000_000, 0)):
        os.utime(ipynb, (first, first))
        os.utime(ipynb.with_suffix(".py"), (second, second))
        assert ANSWER in json.dumps(make_lab.ask("GET", ipynb, "?content=1")["content"])


@pytest.mark.parametrize("editor", ["VS Code", "Colab"])
def test_adopting_carries_the_answer_into_the_text_and_no_other_line(ipynb, editor, capsys):
    text = ipynb.with_suffix(".py")
    {"VS Code": vs_code, "Colab": colab}[editor](ipynb, STUB, ANSWER)
    assert main(["--adopt", str(ipynb)]) == 0
    assert text.read_text("utf-8") == TEXT.replace(STUB, ANSWER)
    assert (ipynb.parents[1] / "edited" / f"{NAME}.1.py").read_text("utf-8") == TEXT
    assert main([str(text)]) == 0  # the text holds the answer now, so it is built
    assert complaints_about_pair(ipynb) == []
    capsys.readouterr()
    assert main(["--adopt", str(ipynb)]) == 0
    assert "no change" in capsys.readouterr().out


def test_adopting_refuses_where_the_text_was_edited_as_well(ipynb: Path, capsys):
    text = ipynb.with_suffix(".py")
    vs_code(ipynb, STUB, ANSWER)
    text_editor(text, "Equation 1.", "Equation 3.")
    before = (ipynb.read_bytes(), text.read_bytes())
    assert main([str(text)]) == 1
    assert "the .py was edited as well" in (said := capsys.readouterr().err)
    assert "--adopt" not in said
    assert main(["--adopt", str(ipynb)]) == 1
    assert "carry the edit over by hand" in capsys.readouterr().err
    assert (ipynb.read_bytes(), text.read_bytes()) == before


def test_adopting_refuses_a_pasted_picture_which_text_cannot_hold(ipynb: Path, capsys):
    notebook = nbformat.read(ipynb, as_version=4)
    notebook.cells[0]["attachments"] = {"a.png": {"image/png": "iVBORw0KGgo="}}
    nbformat.write(notebook, ipynb)
    assert main(["--adopt", str(ipynb)]) == 1
    assert "cell 1 of 00_tiny.ipynb cannot be written as text" in capsys.readouterr().err
    assert ipynb.with_suffix(".py").read_text("utf-8") == TEXT


def test_discarding_keeps_a_copy_of_each_and_builds_from_the_text(ipynb: Path):
    copies = []
    for answer in (ANSWER, "answer = 43"):
        vs_code(ipynb, STUB, answer)
        copies.append(ipynb.read_bytes())
        assert main(["--discard", str(ipynb)]) == 0
        assert complaints_about_pair(ipynb) == []
    kept = sorted((ipynb.parents[1] / "edited").iterdir())
    assert [path.read_bytes() for path in kept] == copies


def test_adopting_and_discarding_need_a_name():
    for option in ("--adopt", "--discard"):
        with pytest.raises(SystemExit):
            main([option])


def conflict(ipynb: Path) -> None:
    ipynb.write_text("<<<<<<< HEAD\n" + ipynb.read_text("utf-8"), "utf-8")


def change(edit: Callable[[list], object]) -> Callable[[Path], None]:
    def apply(ipynb: Path) -> None:
        notebook = nbformat.read(ipynb, as_version=4)
        edit(notebook.cells)
        nbformat.write(notebook, ipynb)

    return apply


WORK = {
    "a changed cell": change(lambda cells: cells[1].update(source=ANSWER)),
    "a new cell": change(lambda cells: cells.append(nbformat.v4.new_code_cell(ANSWER))),
    "a deleted cell": change(lambda cells: cells.pop()),
    "cells in another order": change(lambda cells: cells.reverse()),
    "a cell twice": change(
        lambda cells: cells.append(nbformat.from_dict({**cells[-1], "id": "x"}))
    ),
    "a code cell made markdown": change(
        lambda cells: cells.append(nbformat.v4.new_markdown_cell(cells.pop(1).source))
    ),
    "a tag": change(lambda cells: cells[0].metadata.update(tags=["mine"])),
    "a slide": change(lambda cells: cells[0].metadata.update(slideshow={"slide_type": "slide"})),
    "conflict marks": conflict,
    "an empty file": lambda ipynb: ipynb.write_text(""),
    "other JSON": lambda ipynb: ipynb.write_text("{}"),
}


@pytest.mark.parametrize("kind", WORK)
def test_work_of_every_kind_is_left_as_it_is_and_said(ipynb: Path, kind: str, capsys):
    WORK[kind](ipynb)
    before = ipynb.read_bytes()
    assert main([str(ipynb)]) == 1
    assert ipynb.read_bytes() == before
    said = capsys.readouterr().err
    assert "left as it is" in said
    assert "--discard" in said


NO_WORK = {
    "outputs": change(
        lambda cells: cells[1].update(
            outputs=[nbformat.v4.new_output("stream", text="x")], execution_count=9
        )
    ),
    "the empty cell below the last one run": change(
        lambda cells: cells.append(nbformat.v4.new_code_cell(""))
    ),
    "line ends that no text keeps": change(lambda cells: cells[1].update(source=f"\n{STUB}\n\n")),
    "an unfolded solution": change(lambda cells: cells[2].metadata.pop("jupyter")),
    "empty tags": change(lambda cells: cells[0].metadata.update(tags=[], slideshow={})),
    "no file": lambda ipynb: ipynb.unlink(),
}


@pytest.mark.parametrize("kind", NO_WORK)
def test_what_using_a_notebook_leaves_is_no_work(ipynb: Path, kind: str):
    NO_WORK[kind](ipynb)
    assert main([str(ipynb)]) == 0
    assert complaints_about_pair(ipynb) == []


def test_an_edit_that_the_text_holds_as_well_is_built(ipynb: Path):
    vs_code(ipynb, STUB, ANSWER)
    text_editor(ipynb.with_suffix(".py"), STUB, ANSWER)
    assert main([str(ipynb)]) == 0
    assert complaints_about_pair(ipynb) == []


def test_a_notebook_saved_while_its_cells_run_is_left_as_it_is(ipynb: Path, monkeypatch, capsys):
    text_editor(ipynb.with_suffix(".py"), "Equation 1.", "Equation 3.")
    monkeypatch.setattr(build_notebooks, "run", lambda *_: vs_code(ipynb, STUB, ANSWER))
    assert main([str(ipynb)]) == 1
    assert ANSWER in ipynb.read_text("utf-8")
    assert "was saved while its cells ran" in capsys.readouterr().err
    assert sorted(path.name for path in ipynb.parent.iterdir()) == [f"{NAME}.ipynb", f"{NAME}.py"]


def test_all_notebooks_are_looked_at_before_one_runs_and_the_others_are_built(
    ipynb: Path, monkeypatch, capsys
):
    other = ipynb.with_name("01_other.py")
    other.write_text(TEXT)
    vs_code(ipynb, STUB, ANSWER)
    said_before_the_run = []
    monkeypatch.setattr(
        build_notebooks, "run", lambda *_: said_before_the_run.append(capsys.readouterr().err)
    )
    assert main([str(other), str(ipynb)]) == 1
    assert ANSWER in said_before_the_run[0]
    assert other.with_suffix(".ipynb").exists()
    assert f"not built: {NAME}" in capsys.readouterr().err


def test_building_one_that_was_edited_raises_before_a_cell_is_run(ipynb: Path, monkeypatch):
    vs_code(ipynb, STUB, ANSWER)
    monkeypatch.setattr(build_notebooks, "run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(WorkWouldBeLostError, match="was edited"):
        build_notebooks.build(ipynb.with_suffix(".py"))


@pytest.mark.parametrize("ipynb", course(), ids=lambda path: path.stem)
def test_a_course_notebook_is_as_built_and_jupyter_can_save_its_text_unchanged(ipynb: Path):
    text = ipynb.with_suffix(".py")
    stored = nbformat.read(ipynb, as_version=4)
    assert build_notebooks.recorded(stored) == build_notebooks.digest(stored)
    assert edits(text, bytes_of(ipynb)) == ""
    config = load_jupytext_configuration_file(str(ROOT / "pyproject.toml"))
    assert config.default_formats(str(ipynb)) is None
    assert "jupytext" not in stored.metadata
    opened = jupytext.jupytext.reads(text.read_text("utf-8"), {"extension": ".py"}, config=config)
    assert "formats" not in opened.metadata["jupytext"]
    opened.metadata["language_info"] = {"name": "python", "version": "3.99.9"}
    saved = jupytext.jupytext.writes(opened, {"extension": ".py"}, config=config)
    assert saved.encode() == text.read_bytes()
