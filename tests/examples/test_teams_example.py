"""The example for teams: its files are valid together, the policy permits them and no more, and the page shows them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.config.load import Config, Loaded
from reconciler.config.options import Options
from reconciler.config.policy_file import PolicyFile
from reconciler.config.syntax.config_files import listing

ROOT = Path(__file__).parents[2]
TEAMS = ROOT / "examples" / "teams"
PAGE = ROOT / "docs" / "how-to" / "teams.md"


def blocks(info: str) -> list[str]:
    """Return the content of the fenced blocks of the page with this info string."""
    return re.findall(rf"^```{info}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def teams(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TEAMS, tmp_path / "teams"))


def load(teams: Path) -> Loaded:
    policy = PolicyFile(str(teams / "policy.yaml"), {})
    return Config(
        [teams / "tunnels"], environ={}, options=Options(user="me", now=1_798_761_600.0), policy=policy
    ).reload()


def test_the_files_are_valid_together_and_permitted(teams: Path) -> None:
    assert load(teams).errors == ()


EDITS = [
    ("payments", "15000:pg", "5432:pg", "policy-listen"),
    ("payments", "pg.payments.internal", "pg.web.internal", "policy-destination"),
    ("payments", "prod-db:", "bastion:", "policy-target"),
    ("payments", 'local: "15000:pg.payments.internal:5432"', "socks: 15000", "policy-type"),
    ("web", "staging.web.example.com", "bastion.example.com", "policy-server"),
    ("web", "/run/secrets/web/", "/run/secrets/platform/", "policy-path"),
    ("web", "user: web", "user: '${HOME}'", "policy-variable"),
    ("web", "user: web", "user: web\n    proxyCommand: [sh]", "policy-command"),
    ("temporary", "targets: {}", "targets: {prod-db: {tunnels: [{local: '15900:localhost:80'}]}}", "policy-expiry"),
]


@pytest.mark.parametrize(("file", "old", "new", "code"), EDITS, ids=[code for *_, code in EDITS])
def test_each_limit_is_enforced(teams: Path, file: str, old: str, new: str, code: str) -> None:
    path = teams / "tunnels" / f"{file}.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    loaded = load(teams)
    assert code in {str(error.code) for error in loaded.errors}
    assert [Path(result.path).stem for result in loaded.files if not result.valid] == [file]


def test_a_new_file_needs_a_rule(teams: Path) -> None:
    (teams / "tunnels/other.yaml").write_text("targets: {}")
    assert [str(error.code) for error in load(teams).errors] == ["policy-file"]


def test_a_temporary_tunnel_is_permitted(teams: Path) -> None:
    [line] = re.findall(r"^# +(web-staging: .*)$", (teams / "tunnels/temporary.yaml").read_text(), re.MULTILINE)
    (teams / "tunnels/temporary.yaml").write_text(f"targets: {{{line}}}")
    loaded = load(teams)
    assert loaded.errors == ()
    assert "web-staging/debug" in loaded.desired.tunnels


def shown() -> Iterator[tuple[str, Path]]:
    tunnels = [TEAMS / "tunnels" / name for name in ("platform.yaml", "web.yaml")]
    yield from zip(blocks("yaml"), tunnels, strict=True)
    yield from zip(blocks("yaml addition"), [TEAMS / "tunnels/payments.yaml"], strict=True)
    yield from zip(blocks("yaml policy"), [TEAMS / "policy.yaml"], strict=True)
    yield from zip(blocks("text codeowners"), [TEAMS / "CODEOWNERS"], strict=True)


@pytest.mark.parametrize(("block", "path"), list(shown()), ids=[path.name for _, path in shown()])
def test_the_page_shows_the_files_of_the_example(block: str, path: Path) -> None:
    assert block == path.read_text()


@pytest.mark.parametrize("names", [["platform"], ["platform", "payments", "web"]])
def test_the_job_of_the_page_computes_the_revision(teams: Path, names: list[str]) -> None:
    for path in (teams / "tunnels").iterdir():
        if path.stem not in names:
            path.unlink()
    [job] = blocks("yaml kubernetes")
    script = job.partition("- |\n")[2].partition("until curl")[0].replace("/files", str(teams / "tunnels"))
    done = subprocess.run(
        ["sh", "-c", f"{script}\nprintf sha256:%s $revision"], capture_output=True, text=True, check=True, timeout=30
    )
    files = Config(listing(str(teams / "tunnels")).names, environ={}, options=Options(user="me"))
    assert done.stdout == files.reload().revision
