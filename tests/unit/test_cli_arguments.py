"""Hostile arguments of every command: an error message and a documented exit code, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from reconciler.cli.main import main
from reconciler.core.text.printable import printable

ODD = {
    "empty": "",
    "long": "a" * 300,
    "long path": "/" + "a" * 5000,
    "long parts": "/a" * 3000,
    "not UTF-8": "\udcff\udcfe",
    "control characters": "a\x1b[31m\nb",
    "hidden": "a\u202e\u200bb",
    "half a glob": "[",
    "globs": "*a" * 500,
    "directory": "/",
    "home of nobody": "~nobody-of-that-name/x",
    "in a file": "/dev/null/x",
    "no number": "1e999",
}
OF_PROCESS = ("status", "wait", "restart", "pause", "resume", "connections", "port", "events", "diagnose")
COMMANDS = [
    *([name, "--control", "none.sock", "--", "ODD"] for name in OF_PROCESS if name != "wait"),
    *([name, "--control", "ODD", "--", "x"] for name in OF_PROCESS if name != "wait"),
    ["wait", "--timeout", "0s", "--control", "none.sock", "--", "ODD"],
    ["wait", "--timeout", "0s", "--control", "ODD"],
    ["wait", "--timeout", "ODD", "--control", "none.sock"],
    ["wait", "--revision", "ODD", "--timeout", "0s", "--control", "none.sock"],
    ["pause", "--for", "ODD", "x", "--control", "none.sock"],
    ["reload", "--control", "ODD"],
    *([name, "--", "ODD"] for name in ("check", "plan", "trust")),
    *([name, option, "ODD", "bad.yaml"] for name in ("check", "trust") for option in ("--secrets-dir", "--allow-env")),
    ["plan", "--from", "ODD", "bad.yaml"],
    ["trust", "bad.yaml", "ODD"],
    ["trust", "bad.yaml", "--write", "ODD"],
    ["trust", "--write", "ODD"],
    ["import", "--ssh-config", "ODD"],
    ["import", "--", "ODD"],
    ["import", "--", "ssh", "-N", "-L", "1:h:2", "ODD"],
    ["import", "--", "ssh", "-N", "-L", "ODD", "h"],
    ["import", "--", "ssh", "-N", "-L", "1:h:2", "-i", "ODD", "h"],
    ["import", "--", "ssh", "-N", "-L", "1:h:2", "-J", "ODD", "h"],
    ["import", "--", "ssh", "-N", "-L", "1:h:2", "-o", "UserKnownHostsFile=ODD", "h"],
    ["import", "--", "ssh", "-N", "-L", "1:h:2", "-o", "CertificateFile=ODD", "-i", "/k", "h"],
    ["import", "--", "ssh", "-N", "-L", "1:h:2", "-o", "IdentityAgent=ODD", "h"],
    ["import", "--", "ssh", "-N", "-o", "ODD", "-L", "1:h:2", "h"],
    ["import", "--", "ssh", "-N", "-L", "/ODD:h:2", "h"],
    ["run", "--shard", "ODD"],
    ["run", "--timeout", "ODD", "bad.yaml", "--", "true"],
    ["run", "--log-level", "ODD"],
    ["demo", "--exit-after", "/ODD"],
    ["completion", "ODD"],
    ["schema", "ODD"],
    ["init", "--", "ODD"],
    ["explain", "--", "ODD"],
    ["ODD"],
    ["--ODD"],
]


@pytest.mark.parametrize("odd", ODD.values(), ids=list(ODD))
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_odd_argument_is_an_error_message(
    command: list[str], odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("targets: [\n")
    arguments = [one.replace("ODD", odd) for one in command]
    result = CliRunner().invoke(main, arguments, env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)})
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code in (0, 1, 2, 3)
    if command[0] != "import":
        shown = result.output.replace("\n", "")
        assert printable(shown) == shown


@pytest.mark.parametrize("option", ["--listen", "--control"])
@pytest.mark.parametrize(
    "odd", ["/", "..:80", "\udcff:80", "a:" + "9" * 5000, "x" * 300 + ":80", "127.0.0.1:65536", "[zz]:80", "/a" * 3000]
)
def test_an_odd_endpoint_is_an_error_message(option: str, odd: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("targets: [\n")
    endpoints = {"--listen": "none", "--control": "none", option: odd}
    arguments = [word for pair in endpoints.items() for word in pair]
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tmp_path)
        result = CliRunner().invoke(main, ["run", *arguments, "bad.yaml"])
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 2
