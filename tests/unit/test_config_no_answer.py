"""An empty directory or a missing file keeps its last good content, and is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.config.load import Config, Loaded
from reconciler.config.options import Options

ENVIRON = {"HOME": "/home/me"}
OPTIONS = Options(user="me")
A = "targets: {a: {host: a, agent: true, tunnels: [{local: '1:h:1'}]}}"
B = "targets: {b: {host: b, agent: true, tunnels: [{local: '2:h:1'}]}}"


def config(*paths: Path) -> Config:
    return Config(paths, environ=ENVIRON, options=OPTIONS)


def tunnels(loaded: Loaded) -> list[str]:
    return sorted(loaded.desired.tunnels)


def reported(loaded: Loaded) -> list[tuple[str, bool, str]]:
    return [(result.path, result.valid, result.error) for result in loaded.files]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text(A)
    (tmp_path / "b.yml").write_text(B)
    return tmp_path


def test_an_empty_directory_changes_nothing(folder: Path) -> None:
    files = config(folder)
    files.reload()
    for name in ("a.yaml", "b.yml"):
        (folder / name).unlink()
    loaded = files.reload()
    assert tunnels(loaded) == ["a/local-1", "b/local-2"]
    why = f"{folder}: no *.yaml or *.yml files in this directory"
    assert [str(problem) for problem in loaded.errors] == [why]
    assert reported(loaded) == [(str(folder / "a.yaml"), False, why), (str(folder / "b.yml"), False, why)]
    (folder / "b.yml").write_text(B)
    assert reported(files.reload()) == [(str(folder / "b.yml"), True, "")]


def test_a_directory_that_never_had_a_file_is_reported(tmp_path: Path, folder: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    loaded = config(folder / "a.yaml", empty).reload()
    assert loaded.usable
    assert reported(loaded)[1:] == [(str(empty), False, f"{empty}: no *.yaml or *.yml files in this directory")]


def test_a_missing_directory_changes_nothing(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "x.yaml").write_text(A)
    files = config(inner)
    files.reload()
    (inner / "x.yaml").unlink()
    inner.rmdir()
    loaded = files.reload()
    assert tunnels(loaded) == ["a/local-1"]
    assert reported(loaded) == [(str(inner / "x.yaml"), False, f"{inner}: cannot be read: no such file")]


def test_a_file_in_place_of_a_directory_is_read(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "x.yaml").write_text(A)
    files = config(inner)
    files.reload()
    (inner / "x.yaml").unlink()
    inner.rmdir()
    inner.write_text(B)
    loaded = files.reload()
    assert (tunnels(loaded), reported(loaded)) == (["b/local-2"], [(str(inner), True, "")])


def test_a_missing_named_file_changes_nothing(folder: Path) -> None:
    files = config(folder / "a.yaml", folder / "b.yml")
    files.reload()
    (folder / "a.yaml").unlink()
    loaded = files.reload()
    assert tunnels(loaded) == ["a/local-1", "b/local-2"]
    assert [str(problem) for problem in loaded.errors] == [f"{folder}/a.yaml: cannot be read: no such file"]


def test_a_missing_default_file_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = Config(environ=ENVIRON, options=OPTIONS)
    assert files.reload().desired.targets == {}
    (tmp_path / "tunnels.yaml").write_text(A)
    assert tunnels(files.reload()) == ["a/local-1"]
    (tmp_path / "tunnels.yaml").unlink()
    loaded = files.reload()
    assert tunnels(loaded) == ["a/local-1"]
    assert not loaded.valid
    assert loaded.rejected == ""
