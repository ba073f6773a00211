"""The Dockerfile and the deployment examples, as far as they can be checked without running Docker or Kubernetes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler import __version__
from support.wait import free_port

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
Json = dict[str, Any]


def documents(path: Path) -> list[Json]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one is not None]


def every_yaml() -> list[Path]:
    return sorted(path for path in EXAMPLES.rglob("*") if path.suffix in (".yaml", ".yml"))


@pytest.mark.parametrize("path", every_yaml(), ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_every_yaml_file_parses(path: Path) -> None:
    assert documents(path)


# --- the tunnels in them ----------------------------------------------------------------------------------------------


def _embedded() -> Iterator[tuple[str, str]]:
    for path in every_yaml():
        name = str(path.relative_to(EXAMPLES))
        for document in documents(path):
            if document.get("kind") == "ConfigMap":
                for key, text in document["data"].items():
                    yield f"{name}:{key}", text
            elif "targets" in document and path.parent.parent.name != "teams":  # these are checked together
                yield name, path.read_text()


EMBEDDED = list(_embedded())


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "reconciler", "check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)


@pytest.mark.parametrize(("name", "text"), EMBEDDED, ids=[name for name, _ in EMBEDDED])
def test_every_tunnels_file_in_the_examples_is_valid(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    file.write_text(text)
    done = check(str(file))
    assert done.returncode == 0, f"{name}: {done.stderr}"
    # The only problems are those of a machine without the secrets.
    codes = set(re.findall(r"\[([a-z-]+)\]$", done.stderr, re.MULTILINE))
    assert codes <= {"secret-unreadable", "unset-variable"}, f"{name}: {done.stderr}"


def test_the_examples_contain_tunnels() -> None:
    assert len(EMBEDDED) >= 6


def test_the_pipelines_file_passes_the_strict_check() -> None:
    done = check("--strict", "examples/ci/tunnels.yaml")
    assert done.returncode == 0, done.stderr


def test_the_pipelines_name_commands_and_options_that_exist() -> None:
    text = "".join((EXAMPLES / "ci" / name).read_text() for name in ("github-actions.yaml", "gitlab-ci.yaml"))
    assert text.count("tunnels check --strict tunnels.yaml") == 2
    assert text.count("tunnels plan tunnels.yaml --from -") == 2
    command = [sys.executable, "-m", "reconciler", "plan", "examples/ci/tunnels.yaml", "--from", "-"]
    old = (EXAMPLES / "ci" / "tunnels.yaml").read_text().replace("5432, remoteHost", "5433, remoteHost")
    done = subprocess.run(command, input=old, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "prod/postgres" in done.stdout


def _pipelines() -> Iterator[tuple[str, str, str]]:
    """Yield each pipeline's planning script and the variable that names the base."""
    github, gitlab = (documents(EXAMPLES / "ci" / name)[0] for name in ("github-actions.yaml", "gitlab-ci.yaml"))
    steps = [step["run"] for step in github["jobs"]["check"]["steps"] if "tunnels plan" in step.get("run", "")]
    lines = [line for line in gitlab["tunnels"]["script"] if "tunnels plan" in line]
    yield "GitHub", "\n".join(steps), "BASE"
    yield "GitLab", "\n".join(lines), "CI_MERGE_REQUEST_DIFF_BASE_SHA"


PIPELINES = list(_pipelines())


@pytest.mark.parametrize(("name", "script", "base"), PIPELINES, ids=[name for name, _, _ in PIPELINES])
def test_the_pipelines_plan_from_a_base_with_the_file_and_from_one_without(
    name: str, script: str, base: str, tmp_path: Path
) -> None:
    """The first pull request adds the file, so its base has none."""
    program = tmp_path / "bin" / "tunnels"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m reconciler "$@"\n')
    program.chmod(0o755)
    summary = tmp_path / "summary.md"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GITHUB_STEP_SUMMARY": str(summary),
    }

    def run(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
        environ = environment | more
        return subprocess.run(command, cwd=work, env=environ, capture_output=True, text=True, check=False, timeout=60)

    def commit() -> str:
        author = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        assert run("git", "add", "-A").returncode == 0
        assert run("git", *author, "commit", "-q", "-m", "x").returncode == 0
        return run("git", "rev-parse", "HEAD").stdout.strip()

    work = tmp_path / "repository"
    work.mkdir()
    run("git", "init", "-q")
    (work / "README").write_text("x")
    before = commit()
    (work / "tunnels.yaml").write_text((EXAMPLES / "ci" / "tunnels.yaml").read_text())
    added = commit()
    (work / "tunnels.yaml").write_text(
        (work / "tunnels.yaml").read_text().replace("localPort: 5432", "localPort: 5433")
    )
    commit()
    for revision, told in ((before, "dial"), (added, "127.0.0.1:5433")):
        # Both pipelines run their scripts like this.
        done = run("bash", "-e", "-o", "pipefail", "-c", script, **{base: revision})
        assert done.returncode == 0, f"{name}: {done.stderr}"
        plan = (work / "plan.txt").read_text()
        assert "prod/postgres" in plan
        assert told in plan
    lost = run("bash", "-e", "-o", "pipefail", "-c", script, **{base: "0" * 40})
    assert lost.returncode != 0, "a base that is not there is no base without the file"


# --- compose ----------------------------------------------------------------------------------------------------------


def composed(file: Path) -> subprocess.CompletedProcess[str]:
    """Run `docker compose config`, which reads the file as `docker compose up` does and needs no engine."""
    command = [f"{sysconfig.get_path('scripts')}/docker-compose", "-f", str(file), "config", "--format", "json"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_docker_compose_accepts_the_example() -> None:
    done = composed(EXAMPLES / "compose/compose.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    services = json.loads(done.stdout)["services"]
    assert services["app"]["depends_on"]["tunnels"]["condition"] == "service_healthy"
    assert services["app"]["network_mode"] == "service:tunnels"
    assert services["tunnels"]["healthcheck"]["test"][:2] == ["CMD", "tunnels"]


def test_docker_compose_rejects_a_field_that_does_not_exist(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text((EXAMPLES / "compose/compose.yaml").read_text().replace("stop_grace_period", "stop_grace"))
    done = composed(file)
    assert done.returncode != 0
    assert "stop_grace" in done.stderr


def test_the_key_can_be_copied_as_compose_says(tmp_path: Path) -> None:
    key = tmp_path / ".ssh" / "deploy_ed25519"
    key.parent.mkdir()
    key.write_text("a key\n")
    (said,) = re.findall(r"^# +(.*cp .*) && sudo chown", (EXAMPLES / "compose/compose.yaml").read_text(), re.MULTILINE)
    subprocess.run(["sh", "-ec", said], check=True, cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)})
    (secret,) = documents(EXAMPLES / "compose/compose.yaml")[0]["secrets"].values()
    assert (tmp_path / secret["file"]).read_text() == "a key\n"


# --- systemd ----------------------------------------------------------------------------------------------------------


def systemd_analyze(command: str, *options: str, unit: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed: tests/system-packages.sh installs it (Debian: systemd)")
    words = [program, command, "--no-pager", *options, str(unit)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = (EXAMPLES / "systemd" / "tunnels.service").read_text()
    unit = tmp_path / "tunnels.service"
    # systemd-analyze checks that the program exists, and tunnels is not installed here.
    unit.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", text, flags=re.MULTILINE))
    done = systemd_analyze("verify", "--man=no", unit=unit)
    assert done.returncode == 0, done.stderr
    ours = [line for line in done.stderr.splitlines() if "tunnels.service" in line]
    assert not ours


def test_the_exposure_of_the_unit_is_at_most_two_of_ten() -> None:
    """The rest is what the program needs: the network, sockets, and the processes that hold its ports."""
    options = ("--offline=true", "--threshold=20")
    done = systemd_analyze("security", *options, unit=EXAMPLES / "systemd" / "tunnels.service")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level for tunnels.service" in done.stdout


def test_root_finds_the_program_where_the_unit_installs_it() -> None:
    """The program's directory is not on the PATH of sudo."""
    text = (EXAMPLES / "systemd" / "tunnels.service").read_text()
    (program,) = re.findall(r"^ExecStart=(\S+)", text, re.MULTILINE)
    assert re.findall(r"sudo (\S+)", text) == [program]


# --- the image --------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with continued lines joined and without comments."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def test_every_source_of_the_image_exists_and_is_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    assert copied
    for source in (source for sources in copied for source in sources):
        assert (ROOT / source).exists(), source
        assert any(f"{source}/".startswith(f"{one}/") for one in allowed), f"{source} is not allowed by .dockerignore"


def test_every_package_of_the_image_is_locked_by_its_hash() -> None:
    pip = [rest for word, rest in instructions() if word == "RUN" and "pip" in rest and "venv" not in rest]
    from_index = [one for one in pip if "--no-index" not in one]
    assert len(from_index) == 2
    assert all("--require-hashes" in one and "--only-binary=:all:" in one for one in from_index)
    assert all("--no-deps" in one for one in pip if "--no-index" in one)


def test_the_image_runs_as_a_numeric_user_from_a_configurable_base() -> None:
    said = dict(instructions())  # a repeated instruction has the value of the last stage
    bases = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert bases == ["${BASE}", "${BASE}"]
    assert next(iter(instructions())) == ("ARG", "BASE=python:3.13-slim-bookworm")
    assert said["USER"] == "65532:65532"
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert said["ENTRYPOINT"] == '["tunnels"]'
    assert said["CMD"] == '["run", "/etc/tunnels"]'
    last_stage = instructions()[[word for word, _ in instructions()].index("FROM", 2) :]
    assert "RUN" not in {word for word, _ in last_stage}, "the final stage needs no shell"


def test_the_labels_of_the_image_have_the_version_of_the_program(tmp_path: Path) -> None:
    """The program that builds the image gets the version as an argument, and the build compares it with the program."""
    engine = tmp_path / "engine"
    engine.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    engine.chmod(0o755)
    command = ["make", "--no-print-directory", "image", f"ENGINE={engine}", "IMAGE=own/name"]
    words = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout.split("\n")
    given = dict(word.split("=", 1) for word in words if "=" in word)
    assert given["VERSION"] == __version__
    assert f"own/name:{__version__}" in words
    final = instructions()[[word for word, _ in instructions()].index("FROM", 2) :]
    declared = {rest.partition("=")[0] for word, rest in final if word == "ARG"}
    labels = next(rest for word, rest in final if word == "LABEL")
    assert set(re.findall(r"\$\{(\w+)\}", labels)) == declared == {*given, "BASE"}
    assert any(word == "RUN" and "--version" in rest and "${VERSION}" in rest for word, rest in instructions())


def test_the_image_contains_its_bill_of_materials() -> None:
    (written,) = [rest for word, rest in instructions() if word == "RUN" and "sbom.py" in rest]
    program, _, path = written.partition(" requirements/sbom.py >")
    assert program == "/opt/tunnels/bin/python", "the licences are those of the packages in the image"
    assert path.startswith("/opt/tunnels/")
    assert path.endswith(".cdx.json"), "scanners recognise a bill of materials by its name"


def test_the_health_check_of_the_image_asks_the_process(tmp_path: Path) -> None:
    words = json.loads(dict(instructions())["HEALTHCHECK"].partition("CMD ")[2])
    port = free_port()
    check_health = [sys.executable, *(word.replace("9722", str(port)) for word in words[1:])]
    config = tmp_path / "tunnels.yaml"
    config.write_text("targets: {}\n")
    # A proxy in the environment of the container must not get the request.
    environ = {**os.environ, "http_proxy": "http://127.0.0.1:1"}
    run = [sys.executable, "-m", "reconciler", "run", str(config), "--control", "none"]
    run += ["--listen", f"127.0.0.1:{port}", "--", *check_health]
    beside = subprocess.run(run, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert beside.returncode == 0, beside.stderr
    alone = subprocess.run(check_health, env=environ, capture_output=True, check=False, timeout=60)
    assert alone.returncode != 0
