"""Time grows with a file, not with its square: every regular expression, every scanner, the loader on whole files.

Processor time of the thread is measured at two sizes of which one is four times the other.
"""

from __future__ import annotations

import ast
import gc
import importlib
import itertools
import math
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest

import reconciler
from reconciler.cli.ssh_import.config_files import copy_of
from reconciler.cli.ssh_import.sources.find import find_commands
from reconciler.config.load import Config, load_text
from reconciler.config.options import Options
from reconciler.config.syntax.config_files import Found
from reconciler.core.rules.access import check_destination_rule, check_source_rule
from reconciler.core.socks5 import Handshake
from reconciler.report.http_routes import is_host_allowed
from reconciler.system.redaction import Redactor, redact

GROWTH = 9.0  # allowed growth of the time for four times the size: linear is 4, quadratic 16
NOTHING = 0.004  # seconds: shorter times are not compared
ROUNDS = 12  # maximum
SUSPECT = 0.0005  # seconds for 700 characters; linear expressions take a tenth of it


class Shape(NamedTuple):
    """A text of any size: one part repeated between a start and an end."""

    begin: str
    unit: str
    end: str

    def text(self, size: int) -> str:
        return self.begin + self.unit * (size // len(self.unit)) + self.end


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU time without the garbage collector, whose time depends on the tests before."""
    gc.disable()
    try:
        begun = time.thread_time()
        work()
        return time.thread_time() - begun
    finally:
        gc.enable()


def assert_linear(work: Callable[[int], object], size: int, what: str) -> None:
    """`work` of four times the size takes about four times as long.

    Both sizes in turns, the least of each counts. A busy machine makes single runs slower, and the more rounds there
    are, the less of that remains; what is quadratic is so in every round.
    """
    small = large = math.inf
    for _ in range(ROUNDS):
        small, large = min(small, seconds(lambda: work(size))), min(large, seconds(lambda: work(4 * size)))
        if large < NOTHING or large < GROWTH * small:
            return
    raise AssertionError(f"{what}: four times the size takes {large / small:.0f} times as long")


# --- regular expressions ----------------------------------------------------------------------------------------

USES: dict[str, Callable[[Any, Any], object]] = {
    "match": lambda pattern, text: pattern.match(text),
    "fullmatch": lambda pattern, text: pattern.fullmatch(text),
    "search": lambda pattern, text: pattern.search(text),
    "sub": lambda pattern, text: pattern.subn(text[:0], text),
    "findall": lambda pattern, text: pattern.findall(text),
    "finditer": lambda pattern, text: list(pattern.finditer(text)),
    "split": lambda pattern, text: pattern.split(text),
}


def modules() -> Iterator[str]:
    yield from (
        one.name for one in pkgutil.walk_packages(reconciler.__path__, "reconciler.") if "__main__" not in one.name
    )


def patterns() -> dict[tuple[str, str], re.Pattern[str] | re.Pattern[bytes]]:
    """Return each pattern of the package by module and text."""
    found: dict[tuple[str, str], re.Pattern[str] | re.Pattern[bytes]] = {}
    for name in modules():
        module = importlib.import_module(name)
        own = {key: value for key, value in vars(module).items() if isinstance(value, re.Pattern)}
        tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.func.attr not in USES:
                continue
            use, of = call.func.attr, call.func.value
            if isinstance(of, ast.Name) and of.id in own:
                found[f"{name}.{of.id}", use] = own[of.id]
            elif isinstance(of, ast.Name) and of.id == "re" and isinstance(call.args[0], ast.Constant):
                found[f"{name}:{call.lineno}", use] = re.compile(str(call.args[0].value))
    return found


PATTERNS = patterns()
UNITS = (
    *r"aA0-.:=@$[]{}'*%/&<\\", *" \t\n",
    *("a.", "a-", "0:", "a:", "a=", "a ", "${", "${A", "${A:-", "$A", "%d", "[a", "[]", "[0:0]", "0-", "0.", "::"),
    *("\r\n", "0a", "[Errno ", "[conn=1", "ssh://", "ssh://a@", "ssh-a ", "@a", "- a"),
    *('listen address "', "HTTP/1.1 ", "name r"),
)  # fmt: skip
ENDS = ("", "!", "\n", "a\x00", " x", "}")


def test_every_pattern_of_the_package_is_found() -> None:
    assert len(PATTERNS) > 40
    assert any(name.endswith("variables._NAME") for name, _ in PATTERNS)


@pytest.mark.parametrize(("name", "use"), sorted(PATTERNS))
def test_a_regular_expression_takes_linear_time(name: str, use: str) -> None:
    pattern = PATTERNS[name, use]
    begins = ("", "a b", "ssh-a ", "[")

    def work(text: str) -> object:
        given = text.encode("latin-1", "replace") if isinstance(pattern.pattern, bytes) else text
        return USES[use](pattern, given)

    for shape in itertools.starmap(Shape, itertools.product(begins, UNITS, ENDS)):
        if seconds(partial(work, shape.text(700))) > SUSPECT:
            assert_linear(lambda n, of=shape: work(of.text(n)), 2000, f"{name} on {shape}")  # type: ignore[misc]


# --- whole files ------------------------------------------------------------------------------------------------

HEAD = "targets:\n  a:\n    host: h\n    user: u\n    agent: true\n"


def target(fields: str) -> str:
    return f"targets: {{a: {{host: h, user: u, agent: true, {fields}}}}}"


def tunnel(fields: str) -> str:
    return target(f"tunnels: [{{{fields}}}]")


def targets(n: int, each: str) -> str:
    count = n // (len(each) + 4)
    return "targets:\n" + "".join(
        "  " + each.replace("#", str(i)).replace("@", str(i + 1)) + "\n" for i in range(count)
    )


def tunnels(n: int, each: str) -> str:
    count = n // (len(each) + 8)
    lines = (each.replace("#", str(i)).replace("@", f"{i >> 16}.{i >> 8 & 255}.{i & 255}") for i in range(count))
    return HEAD + "    tunnels:\n" + "".join(f"      - {{{line}}}\n" for line in lines)


def items(n: int, each: str) -> str:
    return ", ".join(each.replace("#", str(i)) for i in range(n // (len(each) + 4)))


FILES: dict[str, Callable[[int], str]] = {
    "variables that are not closed": lambda n: target('description: "' + "${A:-" * (n // 5) + '"'),
    "variables": lambda n: target('user: "' + "${A}" * (n // 4) + '"'),
    "unset variables": lambda n: target('user: "' + items(n, "${B#}") + '"'),
    "refused variables": lambda n: target('user: "' + items(n, "${C#:-") + '"'),
    "unset variables in a short form": lambda n: tunnel('local: "1:' + items(n, "${B#}") + ':2"'),
    "variables in a default": lambda n: target('user: "${A:-' + "${" * (n // 2) + '}"'),
    "dollars": lambda n: target('user: "' + "$" * n + '"'),
    "colons in a short form": lambda n: tunnel('local: "' + ":" * n + '"'),
    "brackets in a short form": lambda n: tunnel('local: "' + "[" * n + '"'),
    "variables and a new line in a short form": lambda n: tunnel('local: "1:h:' + "${" * (n // 2) + '\\n"'),
    "targets": lambda n: targets(n, "t#: {host: h, user: u, agent: true}"),
    "tunnels on one port": lambda n: tunnels(n, "name: t#, local: '127.@:5432:h:1'"),
    "tunnels on one address": lambda n: tunnels(n, "name: t#, local: '5432:h:1'"),
    "tunnels of one name": lambda n: tunnels(n, "name: t, local: '0:h:1'"),
    "tunnels without a name": lambda n: tunnels(n, "local: '0:h:1'"),
    "tunnels that write one file": lambda n: tunnels(n, "name: t#, local: '0:h:1', portFile: /p"),
    "remote tunnels of a target on demand": lambda n: tunnels(n, "name: t#, remote: '0:h:1'").replace(
        "    tunnels:", "    connect: onDemand\n    tunnels:"
    ),
    "unknown keys": lambda n: HEAD + "".join(f"    hst{i}: h\n" for i in range(n // 14)),
    "targets with unknown keys": lambda n: targets(n, "t#: {hst: h}"),
    "targets without a host": lambda n: targets(n, "t#: {tunnels: []}"),
    "targets with wrong values": lambda n: targets(n, "t#: {host: h, port: x, enabled: y, agent: true}"),
    "targets with literal secrets": lambda n: targets(n, "t#: {host: h, user: u, password: x}"),
    "unknown jump hosts": lambda n: targets(n, "target#: {host: h, agent: true, user: u, jumpHost: targte#}"),
    "one jump host": lambda n: targets(n, "t#: {host: h, agent: true, user: u, jumpHost: t0}"),
    "jump hosts round in a circle": lambda n: targets(n, "t#: {host: h, agent: true, user: u, jumpHost: t@}"),
    "inline jump hosts": lambda n: targets(n, "t#: {host: h, agent: true, jumpHosts: [{host: j, agent: true}]}"),
    "keys that stand there twice": lambda n: "targets:\n" + "  a: {}\n" * (n // 8),
    "a long value": lambda n: target("description: " + "a" * n),
    "a long key": lambda n: f'targets: {{"{"a" * n}": {{}}}}',
    "a long word that is none": lambda n: tunnel(f"type: {'local' * (n // 5)}"),
    "spaces": lambda n: target(f'user: "{" " * n}x"'),
    "labels": lambda n: tunnel(f"local: '1:h:1', labels: {{{items(n, 'l#: v')}}}"),
    "inherited labels": lambda n: (
        f"defaults: {{tunnel: {{labels: {{{items(n // 2, 'l#: v')}}}}}}}\n"
        + tunnel(f"local: '1:h:1', labels: {{{items(n // 2, 'm#: v')}}}")
    ),
    "denied addresses": lambda n: tunnel(f"local: '1:h:1', deny: [{items(n, '::#/128')}]"),
    "destinations": lambda n: tunnel(
        f"socks: 1, allowDestinations: [{items(n // 2, 'h#.x:1')}], denyDestinations: [{items(n // 2, 'g#.x:1')}]"
    ),
    "ports of a destination": lambda n: tunnel("socks: 1, allowDestinations: ['h:" + "1," * (n // 2) + "1']"),
    "users": lambda n: tunnel(f"socks: 1, auth: [{items(n, '{username: u#, password: {env: A}}')}]"),
    "private keys": lambda n: target(f"privateKey: [{items(n, '/x#')}]"),
    "hosts": lambda n: f"targets: {{a: {{agent: true, hosts: [{items(n, 'h#')}]}}}}",
    "host keys": lambda n: target(f"hostKeys: [{items(n, 'ssh-ed25519 AAAAAAAAAAAAAAAAAAAA')}]"),
    "a long host key": lambda n: target(f"hostKeys: ['ssh-{'a' * (n // 2)} {'A' * (n // 2)}!']"),
    "waivers": lambda n: target(f"password: x, x-allow: [{items(n, 'literal-secret')}]"),
    "open brackets": lambda n: "targets: " + "[" * n,
    "open braces": lambda n: "targets: " + "{a: " * (n // 4),
    "lists": lambda n: "targets: [" + "[]," * (n // 3) + "]",
    "quotes": lambda n: "targets: {a: '" + "''" * (n // 2) + "'}",
    "quotes that are not closed": lambda n: "targets:\n" + '  a: "x\n' * (n // 8),
    "comments": lambda n: "# c\n" * (n // 4) + "targets: {}",
    "empty lines": lambda n: "\n" * n + "targets: {}",
    "documents": lambda n: "targets: {}\n" + "---\n{}\n" * (n // 7),
    "anchors": lambda n: targets(n, "t#: &a# x"),
    "aliases": lambda n: "targets: [" + "*a," * (n // 3) + "]",
    "tags": lambda n: "targets: [" + "!a b," * (n // 5) + "]",
    "escapes": lambda n: target('user: "' + "\\u0041" * (n // 6) + '"'),
    "plain colons": lambda n: "targets: {a: " + "a:" * (n // 2) + "}",
    "dashes": lambda n: "targets:\n" + "- " * (n // 2),
    "question marks": lambda n: "? " * (n // 2),
    "plain lines": lambda n: "targets:\n" + "a\n" * (n // 2),
    "a long word before a colon": lambda n: f"targets:\n  {'a' * n}\n b: c",
    "notes": lambda n: "targets: {}\n" + "".join(f"x-{i}: 1\n" for i in range(n // 9)),
}


@pytest.mark.parametrize("shape", FILES)
def test_a_file_loads_in_linear_time(shape: str) -> None:
    options = Options(user="u", now=0.0)
    texts = {n: FILES[shape](n) for n in (10_000, 40_000)}
    assert_linear(lambda n: load_text(texts[n], environ={"A": "x" * 10}, options=options), 10_000, shape)


def test_five_thousand_tunnels_on_one_port_load_within_their_time() -> None:
    text = FILES["tunnels on one port"](350_000)
    loaded = load_text(text, environ={})
    assert loaded.valid, loaded.errors
    assert len(loaded.desired.tunnels) > 5_000


def test_a_file_that_expands_beyond_the_limit_changes_nothing() -> None:
    """Five thousand tunnels inherit five thousand labels: the file is small, its expansion is large."""
    labels = items(30_000, "l#: v")
    text = f"defaults: {{tunnel: {{labels: {{{labels}}}}}}}\n" + tunnels(30_000, "name: t#, local: '0:h:1'")
    config = Config((), environ={}, options=Options(seconds=0.3))
    good = config.load([Found("f", "/", tunnels(100, "name: t#, local: '0:h:1'").encode())])
    assert good.valid
    loaded = config.load([Found("f", "/", text.encode())])
    assert [problem.message.partition(":")[0] for problem in loaded.errors] == [
        "reading took more than 0.3 s of processor time"
    ]
    assert loaded.desired.tunnels == good.desired.tunnels
    again = config.load([Found("f", "/", text.encode())])
    assert again.desired.tunnels == good.desired.tunnels


# --- the other scanners -----------------------------------------------------------------------------------------


def copied(text: str) -> None:
    """Copy an ssh_config as `tunnels import` does."""
    with TemporaryDirectory() as directory:
        file = Path(directory, "given")
        file.write_text(text)
        copy_of([str(file)], Path(directory), commands=False)


def ruled(check: Callable[[str], None], rule: str) -> None:
    try:
        check(rule)
    except ValueError:
        return


def hidden(text: str) -> str:
    values = Redactor()
    for number in range(50):
        values.add(f"A{number}", f"aaaa{number}")
    return redact(text)


SCANNERS: dict[str, Callable[[str], object]] = {
    "import of ssh_config": copied,
    "commands in a text": lambda text: find_commands(text, ""),
    "a destination rule": lambda text: ruled(check_destination_rule, text),
    "a source rule": lambda text: ruled(check_source_rule, text),
    "a Host header": lambda text: is_host_allowed(text, ("a.example",)),
    "hidden values": hidden,
    "a SOCKS handshake": lambda text: Handshake(needs_auth=False).feed(text.encode()),
}
SCANNED = (
    *"a :.[-'*", '"', "-N ", "-L ", "a ", "a,", "0,", "0-", "\\\n", "a\n", "Host a\n", "a=", "a  =",
)  # fmt: skip


@pytest.mark.parametrize("scanner", SCANNERS)
def test_a_scanner_takes_linear_time(scanner: str) -> None:
    scan = SCANNERS[scanner]
    begins, ends = ("", "ssh ", "ssh -o ", "a "), ("", "!", " x")
    for shape in itertools.starmap(Shape, itertools.product(begins, SCANNED, ends)):
        if seconds(partial(scan, shape.text(2000))) > 3 * NOTHING:
            assert_linear(lambda n, of=shape: scan(of.text(n)), 4000, f"{scanner} on {shape}")  # type: ignore[misc]
