"""`tunnels import` finds the arguments that a shell gives to ssh.

bash runs each script, with programs in place of ssh and autossh that note their arguments.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from reconciler.cli.ssh_import.sources.find import find_commands
from reconciler.cli.ssh_import.sources.programs.ssh_arguments import autossh_to_ssh
from reconciler.cli.ssh_import.sources.values import Argument

_DIRECTORY = Path(__file__).parents[1] / "configs" / "import" / "sources"
_HOME = "/home/me"
_NOTE = '#!/bin/sh\nprintf "%s\\0" "${0##*/}" "$@" > "$(mktemp "$NOTES/XXXXXX")"\n'

_SCRIPTS = {
    "quotes": """ssh -N -L "1:h:2" -o 'A b'"c d"e -o $'a\\tb' -o a\\ b "u"@'h' -o "\\$x \\y \\" \\\\" """,
    "comments": "# ssh -N no\nssh -N h # -L 1:h:2\nssh -N a#b '#' \\# x",
    "continued lines": "ssh -N \\\n  -L 1:h\\\n:2 \\\n  u@h\nssh -N 'a\\\nb'",
    "redirections": "ssh -N h >/dev/null 2>&1 </dev/null 3>&- &\nwait\nssh 2>/dev/null -N h2 >&2 <<< x",
    "lists": "true && ssh a; false || ssh b; ssh c | cat; { ssh d; }; (ssh e); ! ssh f; if ssh g; then ssh i; fi",
    "defaults": 'A=; ssh "${A:-b}" "${A-b}" ${B:-c d} "${B:-c d}" ${C:=e} $C ${A:+f} "${C:+g}" x',
    "splitting": 'A=\' a  b \'; ssh $A "$A" x$A"y"$A; E=; ssh $E "$E" z$E',
    "arrays": 'A=(a "b c"); A+=(d); ssh "${A[@]}" ${A[@]} $A ${A[1]} "${A[*]}" x"${A[@]}"y',
    "keyed arrays": "declare -A H=([db]=a.x ['web']=b.x); k=db; ssh ${H[db]} ${H[$k]} \"${H['web']}\" \"${H[${k}]}\"",
    "spaces after a backslash": "ssh a\\  b \\\n c",
    "appended": "A=a; A+=b; ssh $A; declare -a B=(1 2); ssh ${B[@]}; export C=c; ssh $C; readonly D='d e'; ssh \"$D\"",
    "trimmed": 'A=host:22:x; ssh "${A%:*}" "${A%%:*}" "${A#*:}" "${A##*:}" "${A/:/-}" "${A//:/}" ${A,,} "${A^^}"',
    "positional": 'f() { ssh "$1" $# "$@" x$*; }; f a "b c"; set -- p q; ssh $2 "${@}"; for i; do ssh $i; done',
    "shifted": 'f() { ssh $1; shift; ssh "$@"; shift 2; ssh $1; shift 9; ssh $#; }; f a "b c" d e\n'
    "for i in 1 2; do bash -c '[ \"$0\" = x ] && shift; ssh $1' x y z; done",
    "local": "H=a; f() { local H=b N=1; g; ssh $H; H=c; M=d; ssh $H$N; }; g() { ssh $H; local A=(x y); declare H=e; }\n"
    'f; ssh $H ${N-unset} $M ${A-unset}; H=b; h() { local H; H=$1; [ -n "$H" ] && ssh $H; }; h i; ssh $H\n'
    "k() { declare -g H=g; }; k; ssh $H",
    "sums": "A=5; ssh $((A+1)) $((8000 + A)) $(( A * 2 )) $((7))",
    "substitutions": 'ssh $(echo a b) "$(echo c  d)" `echo e`; A=$(printf %s f); ssh $A',
    "cases": "A=start; case $A in stop) ssh no;; st*|x) ssh yes;; *) ssh no;; esac; case b in (a|b) ssh y;; esac",
    "conditions": 'A=x; [ -n "$A" ] && ssh a; [ -z "$A" ] || ssh b; if [ $A = y ]; then ssh no; elif [[ $A == x ]]; '
    "then ssh c; else ssh no; fi; [ ! -z $A ] && ssh d; test a != b && ssh e",
    "loops": "for i in 1 2; do for j in a b; do ssh $i$j; done; done\nfor k in {1..3} x{p,q}; do ssh $k; done",
    "here-documents": "cat <<E >/dev/null\nssh no\nE\nssh a <<-'E'\n\tssh $(\n\tE\nssh b\n"
    "cat >/dev/null <<A; ssh c\nx\nA",
    "shells": "bash -c 'ssh \"$0\" $1 $2' a b c; sh -ec \"ssh 'x y'\"; bash -euo pipefail -c 'ssh z'\n"
    "bash <<E\nssh doc\nE",
    "exported": "A=1; export B=2; bash -c 'ssh ${A-unset} $B'; A=3 bash -c 'ssh $A'; env C=4 D= sh -c 'ssh $C ${D:-e}'",
    "eval": 'A="ssh -N \'x y\'"; eval "$A"; eval ssh \\"a b\\"; $A',
    "wrappers": "nohup ssh a; env -u X B=c ssh b; timeout -s INT 10 ssh c; nice -n 5 ssh d; command ssh e; "
    "setsid ssh f; time -p ssh j; stdbuf -oL ssh g; time ssh h; exec -a x ssh i",
    "functions": "function one { ssh a; }\ntwo() (\n ssh b\n)\n"
    "three() { local x=$1; shift; one; two; ssh $x; }\nthree c d",
    "tildes and globs": "ssh -L *:1:h:2 '~/x' \\~ [::1]:1:h:2 a?b",
    "unicode": "ssh ü 'é ñ' \u2028x",
}


def _noted(script: str, directory: Path) -> list[list[str]]:
    """Run a script with bash, and return the arguments of each ssh and autossh."""
    (directory / "bin").mkdir()
    for name in ("ssh", "autossh", "sleep"):
        program = directory / "bin" / name
        program.write_text(_NOTE if name != "sleep" else "#!/bin/sh\n")
        program.chmod(0o755)
    notes = directory / "notes"
    notes.mkdir()
    environment = {"PATH": f"{directory}/bin:/usr/bin:/bin", "HOME": _HOME, "NOTES": str(notes), "LC_ALL": "C.UTF-8"}
    subprocess.run(
        ["bash", "-c", script], env=environment, cwd=directory, check=False, timeout=20, stdout=subprocess.DEVNULL
    )
    made = []
    for note in notes.iterdir():
        program_name, *words = note.read_text().removesuffix("\0").split("\0")
        if program_name == "autossh":
            words = [one.text for one in autossh_to_ssh([Argument(word) for word in words])[0]]
        made.append(words)
    return sorted(made)


def _found(script: str) -> list[list[str]]:
    found, messages = find_commands(script, "", {"HOME": _HOME})
    assert messages == []
    return sorted(list(command.arguments) for command in found)


@pytest.mark.parametrize("name", _SCRIPTS)
def test_the_arguments_are_those_of_bash(name: str, tmp_path: Path) -> None:
    script = _SCRIPTS[name].replace("ssh ", "ssh -N ")  # a tunnel, not a command on the server
    assert _found(script) == _noted(script, tmp_path)


@pytest.mark.parametrize("name", ["keep-alive-loop", "functions", "loop-over-ports", "nested-shells", "branches"])
def test_a_script_starts_the_same_in_bash(name: str, tmp_path: Path) -> None:
    script = (_DIRECTORY / f"{name}.sh").read_text()
    assert _found(script) == _noted(script, tmp_path)
