"""If a change makes two files clash, the changed file is rejected, and the error names both."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.config.load import Config, Loaded
from reconciler.config.options import Options


def tunnel(port: int, **more: object) -> str:
    return str({"type": "local", "localPort": port, "remoteHost": "d", "remotePort": 1, **more})


def target(name: str, *tunnels: str, fields: str = "") -> str:
    return f"targets:\n  {name}: {{host: h, agent: true, {fields}tunnels: [{', '.join(tunnels)}]}}\n"


def adds(name: str, *tunnels: str) -> str:
    return f"targets:\n  {name}: {{tunnels: [{', '.join(tunnels)}]}}\n"


SOCKET = "{type: local, localSocket: /run/s, remotePort: 1}"
REMOTE = "{type: remote, remotePort: 9000, localPort: 1%s}"

# The kind of clash: the first content of a and b, and the new content of the file that causes the clash.
CLASHES = {
    "listen address": (target("a", tunnel(1)), target("b", tunnel(2)), target("b", tunnel(1))),
    "all addresses": (
        target("a", tunnel(1)),
        target("b", tunnel(2)),
        target("b", tunnel(1, localHost="*")),
    ),
    "unix socket": (target("a", SOCKET), target("b", tunnel(2)), target("b", tunnel(2), SOCKET)),
    "target": (target("a", tunnel(1)), target("b", tunnel(2)), target("a", tunnel(2))),
    "tunnel name": (target("a", tunnel(1, name="x")), adds("a", tunnel(2)), adds("a", tunnel(2, name="x"))),
    "default name": (
        target("a", tunnel(1)),
        adds("a", tunnel(2)),
        adds("a", tunnel(2), tunnel(1, localHost="127.0.0.2")),
    ),
    "remote port": (
        target("a", REMOTE % ", name: x"),
        adds("a", tunnel(2)),
        adds("a", REMOTE % ", name: y"),
    ),
    "port file": (
        target("a", tunnel(0, name="x", portFile="/run/p")),
        target("b", tunnel(2)),
        target("b", tunnel(0, portFile="/run/p")),
    ),
}


@pytest.fixture(params=["a, then b", "b, then a"])
def names(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """The paths of the two files, in both orders in which they are merged."""
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    return (first, second) if request.param == "a, then b" else (second, first)


def loader(directory: Path) -> Config:
    return Config([directory], environ={"HOME": "/home/me"}, options=Options(user="me"))


def states(loaded: Loaded) -> dict[str, bool]:
    return {Path(result.path).name: result.valid for result in loaded.files}


@pytest.mark.parametrize("kind", CLASHES)
def test_the_file_that_changed_is_rejected(names: tuple[Path, Path], kind: str) -> None:
    a, b = names
    old_a, old_b, new_b = CLASHES[kind]
    a.write_text(old_a)
    b.write_text(old_b)
    files = loader(a.parent)
    before = files.reload()
    assert before.errors == ()
    b.write_text(new_b)
    for _ in range(2):
        loaded = files.reload()
        assert loaded.desired == before.desired
        assert states(loaded) == {a.name: True, b.name: False}
        [error] = loaded.errors
        assert error.file == str(b)
        assert error.line
        assert f"{a}:2:" in error.message
        assert str(error) in next(result.error for result in loaded.files if not result.valid)


@pytest.mark.parametrize("kind", CLASHES)
def test_a_harmless_change_of_the_other_file_is_applied(names: tuple[Path, Path], kind: str) -> None:
    """Both files change at once, and the change of only one of them causes the clash."""
    a, b = names
    old_a, old_b, new_b = CLASHES[kind]
    a.write_text(old_a)
    b.write_text(old_b)
    files = loader(a.parent)
    assert files.reload().errors == ()
    a.write_text("# a comment\n" + old_a.replace("tunnels: [", "tunnels: [{local: '77:d:1', name: seven}, "))
    b.write_text(new_b)
    (a.parent / "3.yaml").write_text(target("c", tunnel(3)))
    loaded = files.reload()
    assert states(loaded) == {a.name: True, b.name: False, "3.yaml": True}
    assert {"a/seven", "c/local-3"} <= set(loaded.desired.tunnels)
    [error] = loaded.errors
    assert error.file == str(b)
    assert f"{a}:3:" in error.message


@pytest.mark.parametrize("kind", CLASHES)
def test_without_history_one_of_the_two_files_is_used(names: tuple[Path, Path], kind: str) -> None:
    a, b = names
    old_a, _, new_b = CLASHES[kind]
    a.write_text(old_a)
    b.write_text(new_b)
    loaded = loader(a.parent).reload()
    assert sorted(states(loaded).values()) in ([False, True], [False, False])
    assert any(str(a) in str(error) and str(b) in str(error) for error in loaded.errors)


def test_the_clash_ends_when_the_other_file_gives_way(names: tuple[Path, Path]) -> None:
    a, b = names
    a.write_text(target("a", tunnel(1)))
    b.write_text(target("b", tunnel(2)))
    files = loader(a.parent)
    files.reload()
    b.write_text(target("b", tunnel(1)))
    assert not files.reload().valid
    a.write_text(target("a", tunnel(3)))
    loaded = files.reload()
    assert loaded.errors == ()
    assert sorted(loaded.desired.tunnels) == ["a/local-3", "b/local-1"]


def test_a_change_that_breaks_another_file_is_rejected_alone(names: tuple[Path, Path]) -> None:
    """The error is in an unchanged file. Other files that changed at the same time are applied."""
    a, b = names
    a.write_text(target("a", tunnel(1)))
    b.write_text(adds("a", tunnel(2)))
    files = loader(a.parent)
    before = files.reload()
    a.write_text(target("other", tunnel(1)))
    (a.parent / "3.yaml").write_text(target("c", tunnel(3)))
    loaded = files.reload()
    assert states(loaded) == {a.name: False, b.name: True, "3.yaml": True}
    assert set(loaded.desired.tunnels) == {*before.desired.tunnels, "c/local-3"}
    [error] = loaded.errors
    assert str(error) == (
        f"{a}: the change of this file breaks another one, so its last good content stays: "
        f"{b}:2:3: targets.a: no host: add `host`; no other file defines target a"
    )


def test_a_removal_that_breaks_a_changed_file_is_rejected_alone(names: tuple[Path, Path]) -> None:
    a, b = names
    a.write_text(target("a"))
    b.write_text(target("b", tunnel(2), fields="jumpHost: a, "))
    files = loader(a.parent)
    files.reload()
    a.unlink()
    b.write_text(target("b", tunnel(3), fields="jumpHost: a, "))
    loaded = files.reload()
    assert sorted(loaded.desired.tunnels) == ["b/local-3"]
    assert states(loaded) == {a.name: False, b.name: True}
    [error] = loaded.errors
    assert str(error).startswith(f"{a}: removing this file breaks another one, so its last good content stays: {b}:2:")


def test_connect_on_demand_is_rejected_where_it_is_new(names: tuple[Path, Path]) -> None:
    a, b = names
    a.write_text(target("a", tunnel(1)))
    b.write_text(adds("a", REMOTE % ""))
    files = loader(a.parent)
    before = files.reload()
    a.write_text(target("a", tunnel(1), fields="connect: onDemand, "))
    loaded = files.reload()
    assert loaded.desired == before.desired
    [error] = loaded.errors
    assert error.file == str(a)
    assert f"the remote tunnel at {b}:2:" in error.message


def test_two_new_files_that_clash_are_not_both_rejected(names: tuple[Path, Path]) -> None:
    a, b = names
    (a.parent / "0.yaml").write_text(target("o", tunnel(9)))
    files = loader(a.parent)
    files.reload()
    a.write_text(target("a", tunnel(1)))
    b.write_text(target("b", tunnel(1)))
    loaded = files.reload()
    assert sorted(states(loaded).values()) == [False, True, True]
    assert len(loaded.desired.tunnels) == 2


def test_a_change_that_makes_two_other_files_clash_is_rejected(names: tuple[Path, Path]) -> None:
    a, b = names
    a.write_text(target("a", fields="enabled: false, "))
    b.write_text(adds("a", tunnel(2)))
    (a.parent / "3.yaml").write_text(target("c", tunnel(2)))
    files = loader(a.parent)
    before = files.reload()
    assert before.errors == ()
    a.write_text(target("a"))
    (a.parent / "4.yaml").write_text(target("d", tunnel(4)))
    loaded = files.reload()
    assert states(loaded) == {a.name: False, b.name: True, "3.yaml": True, "4.yaml": True}
    assert set(loaded.desired.tunnels) == {*before.desired.tunnels, "d/local-4"}
    [error] = loaded.errors
    assert error.file == str(a)
    assert "breaks another one" in error.message
    assert str(a.parent / "3.yaml") in error.message
    assert str(b) in error.message


def test_a_clash_with_an_invalid_file_is_reported_there(names: tuple[Path, Path]) -> None:
    """The invalid file is rejected in any case, and the other one is applied."""
    a, b = names
    a.write_text(target("a", tunnel(1)))
    b.write_text(target("b", tunnel(2)))
    files = loader(a.parent)
    files.reload()
    a.write_text(target("a", tunnel(3), tunnel(4), tunnel(70000)))
    b.write_text(target("b", tunnel(3)))
    loaded = files.reload()
    assert states(loaded) == {a.name: False, b.name: True}
    assert sorted(loaded.desired.tunnels) == ["a/local-1", "b/local-3"]
    assert {error.file for error in loaded.errors} == {str(a)}
    assert len(loaded.errors) == 2


def test_the_order_of_targets_does_not_depend_on_what_changed(tmp_path: Path) -> None:
    (tmp_path / "1.yaml").write_text(target("a", tunnel(1)))
    (tmp_path / "2.yaml").write_text(target("b", tunnel(2)))
    files = loader(tmp_path)
    files.reload()
    (tmp_path / "1.yaml").write_text(target("a", tunnel(3)))
    assert list(files.reload().desired.targets) == ["a", "b"]
