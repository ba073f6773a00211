"""Runs the commands of one page in the network of the documentation, as its reader would."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from documentation.blocks import Block, Step
from support.processes import tied_to_parent

_WITHIN = 30.0  # seconds for one command; the machine may stall
_SCRIPT = Path(__file__).with_name("lab.sh")
_NEEDS = {"postgres": r"\bpsql\b|\bpg_dump\b", "redis": r"\bredis-cli\b", "web": r"\bcurl\b|\bchromium\b"}
_UNSHARE = ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]

# What differs between two runs. Each is replaced, here and in the page, before the two are compared.
_VARIES = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?Z?)?"), "TIME"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"SHA256:[\w+/]{43}"), "FINGERPRINT"),
    (re.compile(r"AAAA[\w+/]{20,}=*"), "KEY"),
    (re.compile(r"sha256:[0-9a-f]{8,}"), "REVISION"),
    (re.compile(r"\b\d+(\.\d+)? ?(ms|us|s|m|h|min)\b"), "DURATION"),
    (re.compile(r"Next try in DURATION\.|Trying again now\."), "RETRY"),
    (re.compile(r"\b\d+(\.\d+)?[kMG]?i?B\b"), "SIZE"),
    (re.compile(r"\b(pid|process|port of client) \d+|\(\d+\)"), "NUMBER"),
    (re.compile(r"127\.0\.0\.1:[3-6]\d{4}\b"), "CLIENT"),
    (re.compile(r"(/mnt/you/work|/(mnt|home)/you)\b"), "~"),  # the pages show an ordinary home directory
    (re.compile(r"[-─═]{4,}"), "----"),
    (re.compile(r"\s+"), " "),
]

# What a shell says about jobs in the background, at some time.
_JOB = re.compile(r"(\[\d+\][-+ ]? +|\S+: line \d+: +\d+ )(Done|Terminated|Killed|Exit|Running)\b.*(\n\(wd now.*)?\n?")


def why_not() -> str:
    """Return why this machine cannot run the pages, or ""."""
    if os.geteuid() != 0:
        return "needs root, for a network and a mount namespace"
    missing = [name for name in ("unshare", "ip", "bash", "ps") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    hidden = [path for path in (__file__, sys.prefix, tempfile.gettempdir()) if path.startswith(("/mnt/", "/run/"))]
    if hidden:
        return f"the lab has its own /mnt and /run, which hide {hidden[0]}"
    made = subprocess.run([*_UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)
    return f"no namespaces here: {made.stderr.decode().strip()}" if made.returncode else ""


def missing_programs(text: str) -> list[str]:
    """Return the programs that a page uses and this machine lacks."""
    used = [name for name in ("autossh", "curl", "git", "psql", "redis-cli") if re.search(rf"\$ {name}\b", text)]
    return [name for name in used if shutil.which(name) is None]


class PageError(AssertionError):
    """A command of a page did something else than the page says."""


class Lab:
    """The shell of one reader, in namespaces of its own. Their end ends every process in them."""

    def __init__(self, directory: Path, text: str) -> None:
        """`directory`: for the output of the commands. `text`: the page, which shows what servers it needs."""
        self._directory = directory
        self._needs = [name for name, pattern in _NEEDS.items() if re.search(pattern, text)]
        self._shell: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._count = 0
        self._stays = Path("/dev/null")  # the output of the last command that stays

    def __enter__(self) -> Self:
        path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environ = {"PATH": path, "LAB_NEEDS": " ".join(self._needs), "PYTHONDONTWRITEBYTECODE": "1"}
        read = 'while IFS= read -r next; do . "$next"; done'
        with (self._directory / "lab.log").open("wb") as errors:
            self._shell = subprocess.Popen(
                tied_to_parent([*_UNSHARE, "bash", "-c", f". {_SCRIPT}; {read}"]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environ,
                cwd="/",
            )
        try:
            self._answer("ready", "the start of the servers")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._shell is not None
        self._shell.kill()
        self._shell.wait()
        for stream in (self._shell.stdin, self._shell.stdout):
            assert stream is not None
            stream.close()

    # --- blocks -------------------------------------------------------------------------------------------------------

    def write(self, block: Block) -> None:
        """Write the content of a file, as the reader's editor does."""
        assert block.file_name is not None
        content = self._directory / "content"
        content.write_text(block.text)
        name = re.sub(r"^~/", "$HOME/", block.file_name)
        code, output = self._run(f'mkdir -p "$(dirname "{name}")" && cp {content} "{name}"')
        if code:
            raise PageError(f"{block}: {output}")

    def follow(self, block: Block) -> None:
        """Run the commands of a block. Raises PageError if one of them does something else than the page says."""
        if name := block.options.get("step"):
            code, output = self._run(f"step_{name}")
            if code:
                raise PageError(f"{block}: step {name}: {output}")
        if "log" in block.options:
            self._expect_in_log(block, block.text.rstrip("\n").split("\n"))
            return
        for position, step in enumerate(block.steps, 1):
            is_last = position == len(block.steps)
            if is_last and "stays" in block.options:
                self._start(block, step)
                continue
            self._follow(block, step, int(block.options.get("exit", 0)) if is_last else 0)

    def _follow(self, block: Block, step: Step, expected_code: int) -> None:
        deadline = time.monotonic() + _WITHIN
        while True:
            code, output = self._run(step.command)
            problem = _problem(step, output) or (f"exit code {code}" if code != expected_code else "")
            if not problem:
                return
            if "eventually" not in block.options or time.monotonic() > deadline:
                raise PageError(f"{block}: $ {step.command}\n{problem}\n--- it printed:\n{output}")

    def _start(self, block: Block, step: Step) -> None:
        """Start a command that does not end by itself, in a terminal of its own."""
        self._stays = self._new_file("out")
        self._stays.touch()
        script = self._new_file("sh")
        script.write_text(f"{{\n{step.command}\n}} >{self._stays} 2>&1 </dev/null &\nstays=$!\necho 0\n")
        self._send(script, step.command)
        self._expect_in_log(block, step.output)
        if step.is_interrupted:
            self._run('kill -INT -- -"$stays"; wait "$stays"')

    def _expect_in_log(self, block: Block, lines: Sequence[str]) -> None:
        wanted = [varied(line) for line in lines if line != "..."]
        deadline = time.monotonic() + _WITHIN
        while True:
            printed = self._stays.read_text(errors="replace")
            rest = iter([varied(line) for line in printed.split("\n")])
            missing = next((line for line in wanted if not any(_same(line, one) for one in rest)), None)
            if missing is None:
                return
            if time.monotonic() > deadline:
                raise PageError(f"{block}: missing: {missing}\n--- it printed:\n{printed}")
            time.sleep(0.02)

    # --- the shell ----------------------------------------------------------------------------------------------------

    def _new_file(self, suffix: str) -> Path:
        self._count += 1
        return self._directory / f"{self._count}.{suffix}"

    def _run(self, command: str) -> tuple[int, str]:
        """Run a command in the reader's shell; return its exit code and what it printed."""
        output, script = self._new_file("out"), self._new_file("sh")
        script.write_text(f"{{\n{command}\n}} >{output} 2>&1 </dev/null\necho $?\n")
        code = self._send(script, command)
        return int(code), output.read_text(errors="replace")

    def _send(self, script: Path, about: str) -> str:
        assert self._shell is not None
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{script}\n".encode())
        self._shell.stdin.flush()
        return self._answer("", about)

    def _answer(self, wanted: str, about: str) -> str:
        """Return the next line of the shell."""
        assert self._shell is not None
        assert self._shell.stdout is not None
        deadline = time.monotonic() + _WITHIN
        while b"\n" not in self._buffer:
            readable, _, _ = select.select([self._shell.stdout], [], [], max(deadline - time.monotonic(), 0))
            more = os.read(self._shell.stdout.fileno(), 4096) if readable else b""
            if not more:
                errors = (self._directory / "lab.log").read_text(errors="replace")
                raise PageError(f"no answer within {_WITHIN:g} s, or the shell ended: {about}\n{errors}")
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        assert not wanted or line.decode() == wanted, line
        return line.decode()


def varied(line: str) -> str:
    """Return the line without what differs between two runs."""
    for pattern, replacement in _VARIES:
        line = pattern.sub(replacement, line)
    return line.strip()


def _problem(step: Step, output: str) -> str:
    """Return "" if the output is what the page says."""
    if not step.output:
        return ""
    printed = [varied(line) for line in _JOB.sub("", output).rstrip("\n").split("\n")]
    wanted = [varied(line) for line in step.output]
    if _matches(wanted, printed):
        return ""
    return "--- the page says:\n" + "\n".join(step.output)


def _matches(wanted: Sequence[str], printed: Sequence[str]) -> bool:
    """Compare line by line; `...` stands for any lines."""
    if not wanted:
        return not printed
    if wanted[0] == "...":
        return any(_matches(wanted[1:], printed[start:]) for start in range(len(printed) + 1))
    return bool(printed) and _same(wanted[0], printed[0]) and _matches(wanted[1:], printed[1:])


def _same(wanted: str, printed: str) -> bool:
    """Compare two lines; `...` at the end stands for the rest of a line."""
    return printed.startswith(wanted.removesuffix("...")) if wanted.endswith("...") else printed == wanted
