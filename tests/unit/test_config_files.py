"""Several files: merging, and what stays when one is invalid, missing or deleted."""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from reconciler.config.load import Config, Loaded, load_files
from reconciler.config.options import Options
from reconciler.config.syntax.config_files import default_paths, is_utf8
from support.special_files import NOTHING, SPECIAL, put

ENVIRON = {"HOME": "/home/me"}
OPTIONS = Options(user="me")
A = "targets: {a: {host: a, agent: true, tunnels: [{local: '1:h:1'}]}}"
B = "targets: {b: {host: b, agent: true, tunnels: [{local: '2:h:1'}]}}"


def config(*paths: Path) -> Config:
    return Config(paths, environ=ENVIRON, options=OPTIONS)


def tunnels(loaded: Loaded) -> list[str]:
    return sorted(loaded.desired.tunnels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text(A)
    (tmp_path / "b.yml").write_text(B)
    (tmp_path / "notes.txt").write_text("[")
    (tmp_path / ".hidden.yaml").write_text("[")
    return tmp_path


def test_the_yaml_files_of_a_directory_are_one_configuration(folder: Path) -> None:
    loaded = config(folder).reload()
    assert loaded.errors == ()
    assert tunnels(loaded) == ["a/local-1", "b/local-2"]
    assert [result.path for result in loaded.files] == [str(folder / "a.yaml"), str(folder / "b.yml")]


def test_a_file_adds_tunnels_to_a_target_of_another_with_its_own_defaults(folder: Path) -> None:
    (folder / "c.yaml").write_text(
        "defaults: {tunnel: {maxConnections: 7}}\ntargets: {a: {tunnels: [{local: '3:h:1', portFile: p}]}}"
    )
    loaded = config(folder).reload()
    assert tunnels(loaded) == ["a/local-1", "a/local-3", "b/local-2"]
    assert loaded.desired.tunnels["a/local-3"].policy.max_connections == 7
    assert loaded.desired.tunnels["a/local-3"].policy.port_file == str(folder / "p")
    assert loaded.desired.tunnels["a/local-1"].policy.max_connections == 0


UNKNOWN_AND_MISSING = "targets: {a: {host: a, agent: true, tunnels: [{type: local, localPrt: 1, remotePort: 1}]}}"
BAD = ["targets: [", "", "# nothing", "targets: {a: {hots: a}}", UNKNOWN_AND_MISSING, "targets:", "defaults: {}"]


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_file_keeps_its_own_last_good_content_and_the_others_are_applied(folder: Path, bad: str) -> None:
    files = config(folder)
    before = files.reload()
    (folder / "a.yaml").write_text(bad)
    (folder / "b.yml").write_text(B.replace("2:h", "4:h"))
    loaded = files.reload()
    assert tunnels(loaded) == ["a/local-1", "b/local-4"]
    assert [(result.valid, bool(result.error)) for result in loaded.files] == [(False, True), (True, False)]
    assert loaded.rejected not in ("", loaded.revision, before.revision)
    (folder / "a.yaml").write_text(A)
    assert files.reload().errors == ()


def test_empty_targets_mean_no_targets(folder: Path) -> None:
    files = config(folder)
    files.reload()
    (folder / "a.yaml").write_text("targets: {}")
    assert tunnels(files.reload()) == ["b/local-2"]


def test_a_file_deleted_from_a_directory_with_others_is_removed(folder: Path) -> None:
    files = config(folder)
    files.reload()
    (folder / "a.yaml").unlink()
    loaded = files.reload()
    assert loaded.errors == ()
    assert tunnels(loaded) == ["b/local-2"]
    assert [result.path for result in loaded.files] == [str(folder / "b.yml")]


def test_a_dangling_link_is_not_a_deleted_file(folder: Path) -> None:
    files = config(folder)
    files.reload()
    (folder / "a.yaml").unlink()
    (folder / "a.yaml").symlink_to("nowhere")
    loaded = files.reload()
    assert tunnels(loaded) == ["a/local-1", "b/local-2"]
    assert not loaded.valid


@pytest.mark.parametrize("kind", [*SPECIAL, *NOTHING])
def test_a_file_that_becomes_special_keeps_its_last_good_content(folder: Path, kind: str) -> None:
    make, said = (SPECIAL | NOTHING)[kind]
    files = config(folder)
    before = files.reload()
    assert before.valid
    put(folder / "b.yml", make)
    loaded = files.reload()
    assert not loaded.valid
    [error] = loaded.errors
    assert error.file == str(folder / "b.yml")
    assert said in str(error)
    assert loaded.desired == before.desired


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_named_path_that_is_not_a_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("reconciler.config.syntax.config_files._PIPE_IDLE", 0.1)
    make, said = SPECIAL[kind]
    put(tmp_path / "tunnels.yaml", make)
    loaded = config(tmp_path / "tunnels.yaml").reload()
    assert not loaded.usable
    [error] = loaded.errors
    if kind == "a pipe":
        said = "timed out waiting for data from the pipe"
    assert said in str(error)


def test_a_named_pipe_is_read_once() -> None:
    """A pipe as from `<(command)`: its content arrives slowly, and can be read once."""
    readable, writable = os.pipe()
    with os.fdopen(readable), os.fdopen(writable, "w") as into:
        path = Path(f"/dev/fd/{readable}")
        files = config(path)
        with ThreadPoolExecutor(1) as thread:
            loading = thread.submit(files.reload)
            for line in A.splitlines(keepends=True):
                into.write(line)
                into.flush()
            into.close()
            first = loading.result()
        assert first.valid, first.errors
        assert files.reload().desired == first.desired


def test_an_endless_pipe_is_too_large(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        with suppress(BrokenPipeError), (tmp_path / "pipe").open("wb", buffering=0) as into:
            while True:
                into.write(b"x" * 4096)

    writer = threading.Thread(target=write)
    writer.start()
    [error] = config(tmp_path / "pipe").reload().errors
    writer.join()
    assert "larger than 1024 KiB" in str(error)


def test_at_start_a_bad_file_is_left_out(folder: Path) -> None:
    (folder / "a.yaml").write_text("targets: [")
    loaded = config(folder).reload()
    assert tunnels(loaded) == ["b/local-2"]
    assert loaded.usable
    assert not loaded.valid


@pytest.mark.parametrize(("bad", "sound"), [("a.yaml", "b.yaml"), ("b.yaml", "a.yaml")])
def test_a_bad_file_does_not_reject_a_good_file_with_the_same_target(folder: Path, bad: str, sound: str) -> None:
    (folder / "b.yml").unlink()
    (folder / sound).write_text(A)
    (folder / bad).write_text(A + "\nunknown: 1\n")
    files = config(folder)
    for text, there in ((A, ["a/local-1"]), (A.replace("1:h", "3:h"), ["a/local-3"])):
        (folder / sound).write_text(text)
        loaded = files.reload()
        assert [(Path(file.path).name, file.valid) for file in loaded.files] == sorted([(bad, False), (sound, True)])
        assert tunnels(loaded) == there


def test_without_a_valid_file_nothing_is_usable(tmp_path: Path) -> None:
    loaded = load_files([tmp_path / "none.yaml"], environ=ENVIRON)
    assert not loaded.usable
    assert loaded.revision == ""
    assert not loaded.desired.targets


def test_of_two_conflicting_files_the_changed_one_is_rejected(folder: Path) -> None:
    files = config(folder)
    files.reload()
    (folder / "a.yaml").write_text(A.replace("1:h", "2:h"))
    loaded = files.reload()
    assert tunnels(loaded) == ["a/local-1", "b/local-2"]
    assert [result.valid for result in loaded.files] == [False, True]
    [error] = loaded.errors
    assert error.file == str(folder / "a.yaml")
    other = f"127.0.0.1:2 of b/local-2 at {folder}/b.yml:1:47"
    assert error.message == f"listens on 127.0.0.1:2, which conflicts with {other}: change one of them"


def test_a_file_that_other_files_need_stays(folder: Path) -> None:
    (folder / "c.yaml").write_text("targets: {a: {tunnels: [{local: '3:h:1'}]}}")
    files = config(folder)
    before = files.reload()
    (folder / "a.yaml").unlink()
    loaded = files.reload()
    assert loaded.desired == before.desired
    assert loaded.rejected not in ("", loaded.revision)
    [error] = loaded.errors
    assert error.file == str(folder / "a.yaml")
    assert error.message.endswith("targets.a: no host: add `host`; no other file defines target a")
    (folder / "c.yaml").unlink()
    assert tunnels(files.reload()) == ["b/local-2"]


def test_a_tunnel_can_move_between_files_in_one_edit(folder: Path) -> None:
    files = config(folder)
    files.reload()
    (folder / "a.yaml").write_text(A.replace("1:h", "2:h"))
    (folder / "b.yml").write_text(B.replace("2:h", "1:h"))
    loaded = files.reload()
    assert loaded.errors == ()
    assert tunnels(loaded) == ["a/local-2", "b/local-1"]


def test_unchanged_specs_are_the_same_objects(folder: Path) -> None:
    files = config(folder)
    before = files.reload().desired
    (folder / "a.yaml").write_text(A.replace("1:h", "9:h"))
    after = files.reload().desired
    assert after.tunnels["b/local-2"] is before.tunnels["b/local-2"]
    assert after.targets["a"] is before.targets["a"]


def chain(length: int) -> str:
    """Return targets that each use the next one as jump host."""
    links = "".join(f"  t{n}: {{host: h{n}, agent: true, jumpHost: t{n + 1}}}\n" for n in range(length))
    return f"targets:\n{links}  t{length}: {{host: h{length}, agent: true}}\n"


def test_two_loads_of_the_same_files_are_equal(folder: Path) -> None:
    """Also if each load hides the values of variables in its own objects."""
    (folder / "a.yaml").write_text(A.replace("host: a,", "host: '${HOME}',"))
    assert config(folder).reload() == config(folder).reload()


def test_a_jump_host_cycle_is_an_error_and_delays_no_other_file(folder: Path) -> None:
    files = config(folder)
    files.reload()
    for text in (chain(400), "targets:\n" + "\n".join(reversed(chain(400).splitlines()[1:]))):
        (folder / "a.yaml").write_text(text)
        (folder / "b.yml").write_text(B.replace("2:h", f"{len(text)}:h"))
        loaded = files.reload()
        assert tunnels(loaded) == ["a/local-1", f"b/local-{len(text)}"]
        assert {problem.file for problem in loaded.errors} == {str(folder / "a.yaml")}
        assert all("more than 16 jump hosts on the path to t" in problem.message for problem in loaded.errors)


@pytest.mark.parametrize("backwards", [False, True])
def test_sixteen_jump_hosts_are_accepted(folder: Path, backwards: bool) -> None:
    head, *lines = chain(16).splitlines()
    (folder / "a.yaml").write_text("\n".join([head, *sorted(lines, reverse=backwards)]))
    loaded = config(folder).reload()
    assert loaded.errors == ()
    assert len(loaded.desired.targets["t0"].access.via) == 16


def test_a_file_name_that_is_not_utf_8_is_reported_and_other_files_are_read(folder: Path) -> None:
    (folder / os.fsdecode(b"\xff.yaml")).write_text("targets: {c: {host: c, agent: true}}")
    loaded = config(folder).reload()
    assert tunnels(loaded) == ["a/local-1", "b/local-2"]
    assert [str(problem) for problem in loaded.errors] == [
        f"{folder}/\\udcff.yaml: the file name is not UTF-8: rename the file"
    ]
    assert all(is_utf8(file.path) for file in loaded.files)


def test_the_revision_of_one_file_is_its_sha256_in_any_directory(folder: Path) -> None:
    loaded = config(folder / "a.yaml").reload()
    assert loaded.revision == "sha256:" + hashlib.sha256(A.encode()).hexdigest()
    assert config(folder / "b.yml", folder / "a.yaml").reload().revision == config(folder).reload().revision


def test_files_that_the_specs_name_are_listed(folder: Path) -> None:
    (folder / "a.yaml").write_text("targets: {a: {host: a, privateKey: k, password: {file: /p}, knownHosts: h}}")
    assert load_files([folder / "a.yaml"], environ=ENVIRON).watched == {f"{folder}/k", "/p", f"{folder}/h"}


def test_default_paths_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    environ = {"HOME": str(home)}
    assert default_paths(environ) == ()
    (message,) = (problem.message for problem in load_files(environ=environ).errors)
    assert message.startswith("no configuration found")
    (home / ".config" / "tunnels").mkdir(parents=True)
    assert default_paths(environ) == (str(home / ".config" / "tunnels"),)
    (tmp_path / "tunnels.yaml").write_text(A)
    assert default_paths(environ) == ("tunnels.yaml",)
    assert tunnels(load_files(environ=environ)) == ["a/local-1"]
    assert default_paths(environ | {"TUNNELS_CONFIG": "/x"}) == ("/x",)
