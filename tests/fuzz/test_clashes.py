"""Random edits of several files: only changed files are rejected, and the applied content is valid together."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from reconciler.config.load import Config, load_files
from reconciler.config.options import Options

NAMES = [f"{number}.yaml" for number in range(4)]
OPTIONS = Options(user="me")


def content(source: random.Random) -> str:
    """Return a file that is likely to clash with another one, or to need one."""
    if source.random() < 0.05:
        return "targets: ["
    lines = []
    for name in source.sample("abcd", source.randint(1, 2)):
        fields = ["agent: true", "host: h"] if source.random() < 0.7 else []
        for more in (f"jumpHost: {source.choice('abcd')}", "connect: onDemand", "enabled: false"):
            fields += [more] if fields and source.random() < 0.15 else []
        tunnels = [
            f"{{name: {source.choice('xyz')}, {source.choice(['local', 'remote'])}: '{source.randint(1, 5)}:h:1'}}"
            for _ in range(source.randint(0, 2))
        ]
        fields.append(f"tunnels: [{', '.join(tunnels)}]")
        lines.append(f"  {name}: {{{', '.join(fields)}}}\n")
    return "targets:\n" + "".join(lines)


def edit(directory: Path, source: random.Random) -> None:
    for name in source.sample(NAMES, source.randint(1, 3)):
        others = [one for one in NAMES if one != name and (directory / one).exists()]
        if others and source.random() < 0.1:
            (directory / name).unlink(missing_ok=True)
        else:
            (directory / name).write_text(content(source))


@pytest.mark.parametrize("seed", range(4))
def test_random_edits_reject_only_changed_files(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    files, applied = tmp_path / "files", tmp_path / "applied"
    files.mkdir()
    applied.mkdir()
    for name in NAMES:
        (files / name).write_text(content(source))
    config = Config([files], environ={}, options=OPTIONS)
    for _ in range(8):
        loaded = config.reload()
        listed = {Path(result.path).name: result for result in loaded.files}
        for name in NAMES:
            now = (files / name).read_text() if (files / name).exists() else None
            good = (applied / name).read_text() if (applied / name).exists() else None
            if name not in listed:
                (applied / name).unlink(missing_ok=True)
            elif listed[name].valid:
                assert now is not None
                (applied / name).write_text(now)
            else:
                assert now != good
                assert "see the errors" not in listed[name].error
        if any(applied.iterdir()):
            together = load_files([applied], environ={}, options=OPTIONS)
            assert together.errors == ()
            assert together.desired == loaded.desired
        edit(files, source)
