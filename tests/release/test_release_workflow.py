"""The release workflow: what it may do, what it refuses, and which files it publishes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import reconciler

ROOT = Path(__file__).parents[2]
WORKFLOWS = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), ROOT / "examples/ci/github-actions.yaml"]
TEXT = (ROOT / ".github/workflows/release.yml").read_text()
RELEASE: dict[str, Any] = yaml.safe_load(TEXT)
JOBS: dict[str, dict[str, Any]] = RELEASE["jobs"]
URL = "https://git.example.com/team/tunnels"


def steps() -> Iterator[dict[str, Any]]:
    for job in JOBS.values():
        yield from job.get("steps", [])


def run_step(name: str, directory: Path, tag: str) -> subprocess.CompletedProcess[str]:
    """Run the script of a step as the runner does."""
    (script,) = (step["run"] for step in steps() if step.get("name") == name)
    environ = {"PATH": os.environ["PATH"], "GITHUB_REF_NAME": tag, "PROJECT_URL": URL}
    command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script]
    return subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actionlint_accepts_the_workflows(workflow: Path) -> None:
    """Among others: each action has these inputs, and its runtime is still supported."""
    program = Path(sysconfig.get_path("scripts"), "actionlint")
    done = subprocess.run(
        [program, "-no-color", workflow], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_action_is_pinned_to_a_tag() -> None:
    actions = [step["uses"] for step in steps() if "uses" in step]
    assert actions
    assert [one for one in actions if not re.fullmatch(r"[\w-]+/[\w-]+@v\d+(\.\d+){0,2}", one)] == []


def test_only_the_job_that_publishes_can_publish() -> None:
    assert RELEASE["permissions"] == {"contents": "read"}
    assert {name: job["permissions"] for name, job in JOBS.items() if "permissions" in job} == {
        "image": {"contents": "read", "packages": "write"},
        "publish": {"id-token": "write"},
        "release": {"contents": "write"},
    }
    assert JOBS["publish"]["environment"] == "release"


def test_the_job_that_publishes_runs_no_code_of_the_repository() -> None:
    used = [step.get("uses", "").partition("@")[0] for step in JOBS["publish"]["steps"]]
    assert used == ["actions/download-artifact", "pypa/gh-action-pypi-publish"]


def test_the_workflow_has_no_secrets_and_names_one_registry() -> None:
    assert "secrets." not in TEXT
    assert set(re.findall(r"\b(?:[a-z0-9-]+\.)+(?:io|com|org)\b", TEXT)) == {"ghcr.io"}


def test_scripts_take_values_of_the_event_only_from_variables() -> None:
    """An expression in a script would run what a tag's name contains."""
    assert [step["name"] for step in steps() if "${{" in step.get("run", "")] == []


def test_nothing_is_published_before_the_tests() -> None:
    def before(job: str) -> set[str]:
        needs = JOBS[job].get("needs", [])
        direct = {needs} if isinstance(needs, str) else set(needs)
        return direct.union(*map(before, direct))

    assert {"test", "packages"} <= before("image")
    assert {"test", "packages", "image"} <= before("publish")
    assert {"test", "packages", "image", "publish"} <= before("release")
    called = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert "workflow_call" in called[True], "`on` is true in YAML 1.1"
    assert JOBS["test"] == {"uses": "./.github/workflows/ci.yml"}


@pytest.mark.parametrize(
    ("tag", "changelog", "refusal"),
    [
        ("v{}", "## {} (2026-11-26)\n", ""),
        ("v{}", "## Unreleased\n", "CHANGELOG.md has no section"),
        ("v{}", "## {}1 (2026-11-26)\n", "CHANGELOG.md has no section"),
        ("{}", "## {} (2026-11-26)\n", "does not name version"),
        ("v{}.1", "## {} (2026-11-26)\n", "does not name version"),
    ],
)
def test_a_tag_that_is_not_the_version_is_refused(tmp_path: Path, tag: str, changelog: str, refusal: str) -> None:
    version = reconciler.__version__
    (tmp_path / "reconciler").mkdir()
    shutil.copy(ROOT / "reconciler/__init__.py", tmp_path / "reconciler")
    (tmp_path / "CHANGELOG.md").write_text(changelog.format(version))
    done = run_step("Compare the tag with the version and the changelog", tmp_path, tag.format(version))
    assert (done.returncode != 0) == bool(refusal), done.stderr
    assert refusal in done.stderr


def test_the_release_has_checksums_of_all_files_and_rules_with_absolute_links(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "dist").mkdir()
    for name in ("sbom.json", "dist/a.whl", "dist/a.tar.gz"):
        (tmp_path / name).write_text(name)
    done = run_step("Collect the files of the release", tmp_path, "v1.2.3")
    assert done.returncode == 0, done.stderr
    files = tmp_path / "files"
    lines = [line.split("  ") for line in (files / "SHA256SUMS").read_text().splitlines()]
    sums = {name: digest for digest, name in lines}
    assert sums == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files.iterdir()
        if path.name != "SHA256SUMS"
    }
    assert set(sums) == {"a.whl", "a.tar.gz", "sbom.json", "dashboard.json", "rules.yml"}
    links = re.findall(r"runbook_url: (.*)", (files / "rules.yml").read_text())
    assert links
    assert all(link.startswith(f"{URL}/blob/v1.2.3/docs/runbook.md#") for link in links)
