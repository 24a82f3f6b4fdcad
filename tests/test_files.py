"""What is written is whole, in UTF-8, and over nothing else."""

import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.records import read_json, write_json
from diffflow_edu.files import write_new, write_once, write_whole

ROOT = Path(__file__).parents[1]


def test_a_new_file_takes_the_next_free_name(tmp_path):
    path = tmp_path / "model.json"
    assert [write_new(path, f"≤ {i}").name for i in range(3)] == [
        "model.json",
        "model-2.json",
        "model-3.json",
    ]
    assert path.read_text("utf-8") == "≤ 0" and len(list(tmp_path.iterdir())) == 3


def test_writers_at_the_same_time_get_names_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda i: write_new(tmp_path / "x.json", str(i)), range(24)))
    assert len(set(paths)) == 24
    assert sorted(int(p.read_text("utf-8")) for p in tmp_path.iterdir()) == list(range(24))


def test_a_disk_without_links_keeps_names_apart_too(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refused)
    names = [write_new(tmp_path / "x.json", "").name for _ in range(2)]
    assert names == ["x.json", "x-2.json"] and len(list(tmp_path.iterdir())) == 2


def test_what_is_there_stays_unless_it_is_replaced_on_purpose(tmp_path):
    path = tmp_path / "deep" / "x"
    write_once(path, b"first")
    with pytest.raises(FileExistsError, match="x exists"):
        write_once(path, b"second")
    assert path.read_bytes() == b"first"
    write_whole(path, b"third")
    assert path.read_bytes() == b"third" and len(list(path.parent.iterdir())) == 1


def test_results_of_a_benchmark_stay_beside_those_that_replace_them(tmp_path):
    path = tmp_path / "results" / "toy.json"
    for value in (1, 2, 2, 3):
        write_json(path, {"bits/dim ≤": value})
    assert read_json(path) == {"bits/dim ≤": 3}
    earlier = sorted((path.parent / "earlier").iterdir())
    assert [read_json(p)["bits/dim ≤"] for p in earlier] == [2, 1]  # toy-2.json, toy.json


def text_files_in_the_locales_encoding(source):
    """Lines that open, read or write a text without saying UTF-8."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = [a.value for a in node.args if isinstance(a, ast.Constant)]
        given += [k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)]
        modes = [a for a in given if isinstance(a, str)]
        plain = isinstance(node.func, ast.Name) and name == "open"
        binary = plain and any("b" in mode for mode in modes)
        if name in ("read_text", "write_text") or (plain and not binary):
            if "utf-8" not in [m.lower() for m in modes]:
                yield node.lineno


@pytest.mark.parametrize("folder", ["diffflow_edu", "benchmarks", "tools"])
def test_texts_are_read_and_written_in_utf_8_whatever_the_locale(folder):
    # tools/build_notebooks.py has a function of its own called read_text.
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in text_files_in_the_locales_encoding(path.read_text("utf-8"))
        if "= read_text(" not in path.read_text("utf-8").splitlines()[line - 1]
    ]
    assert found == []
