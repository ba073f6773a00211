"""Runs a command as in a container: a uid without a name, no HOME, a read-only root, no /tmp, no capabilities.

Run as root: `python tests/support/container.py COMMAND...`. The command sees the machine's files. All are read-only
except one directory, which PYTEST_DEBUG_TEMPROOT names (pytest puts its temporary files there).

`as_image` runs a command as `docker run --read-only` does: nothing is writable except /run/tunnels, or nothing at all.
The command finds a copy of a directory at FILES. It sees the machine's files, or those of an image's root directory.

Servers and clients of the tests (sshd, initdb, ssh-keygen) refuse to work for a user without a name. PATH has wrappers
of them that give the user a name by libnss_wrapper, as the container image of PostgreSQL does. The program under test
has no wrapper. TUNNELS_TEST_USER is the user's name.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

UID = 54_321
USER = "container-user"
_LIBRARY = "libnss_wrapper.so"
_NEED_A_NAME = [
    *("sshd", "ssh", "ssh-keygen", "ssh-keyscan", "ssh-agent", "ssh-add", "dropbear", "dropbearkey"),
    *("initdb", "postgres", "pg_isready", "psql", "redis-server"),
]
FILES = Path("/run/files")
IMAGE_PATH = "/opt/tunnels/bin:/usr/local/bin:/usr/bin:/bin"  # as in the Dockerfile
_AS_IMAGE = {"--tmpfs-run-tunnels": True, "--no-tmpfs": False}  # is /run/tunnels writable?
_KERNELS = ("/proc", "/sys", "/dev")  # file systems that hold no files
_INSIDE = "TUNNELS_TEST_INSIDE_NAMESPACE"


def why_not() -> str:
    """Return why this machine cannot run such a command, or ""."""
    if os.geteuid() != 0:
        return "needs root, to set up a container's conditions"
    if shutil.which("setpriv") is None:
        return "setpriv is not installed (Debian: util-linux)"
    if _library() is None:
        return f"{_LIBRARY} is not installed (Debian: libnss-wrapper)"
    made = subprocess.run([*_UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)
    return f"no mount namespaces here: {made.stderr.decode().strip()}" if made.returncode else ""


_UNSHARE = ("unshare", "--mount", "--propagation", "private")


def command(*words: str) -> list[str]:
    """Return the command that runs `words` under these conditions."""
    return [sys.executable, __file__, *words]


def as_image(*words: str, files: Path, has_run_tunnels: bool, root: Path = Path("/")) -> list[str]:
    """Return the command that runs `words` with a copy of `files` at FILES, and no other writable directory."""
    option = next(name for name, value in _AS_IMAGE.items() if value is has_run_tunnels)
    return command(option, str(files), str(root), *words)


def user_name() -> str:
    """Return the name of the test's user. Under these conditions only the wrapped servers know it."""
    return os.environ.get("TUNNELS_TEST_USER") or getpass.getuser()


def temporary_root() -> Path:
    """Return the directory for temporary files."""
    return Path(os.environ.get("PYTEST_DEBUG_TEMPROOT") or tempfile.gettempdir())


def passwd_entry(home: Path) -> str:
    """Return a line of passwd(5) for this user with another home directory."""
    return f"{user_name()}:x:{os.getuid()}:{os.getgid()}::{home}:/bin/sh\n"


def keep_temporary_directory_to_ourselves() -> None:
    """Keep the temporary directory for pytest: programs that it starts have none."""
    if is_entered():
        tempfile.gettempdir()  # caches the directory for this process
        os.environ.pop("TMPDIR", None)


def is_entered() -> bool:
    """Return True if this process runs under these conditions."""
    return "TUNNELS_TEST_USER" in os.environ


def _library() -> Path | None:
    found = [*Path("/usr/lib").glob(f"*-linux-gnu/{_LIBRARY}"), *Path("/usr/lib64").glob(_LIBRARY)]
    return found[0] if found else None


# --- outside: a temporary directory for the time of the command --------------------------------------------------


def main(words: list[str]) -> int:
    if os.environ.get(_INSIDE):
        _enter(Path(os.environ[_INSIDE]), words)
    if problem := why_not():
        print(problem, file=sys.stderr)
        return 77
    # Not in /tmp, which the command must not have.
    with tempfile.TemporaryDirectory(prefix="tunnels-container-", dir="/run") as directory:
        inside = [*_UNSHARE, sys.executable, __file__, *words]
        return subprocess.run(inside, check=False, env={**os.environ, _INSIDE: directory}).returncode


# --- inside the mount namespace, still as root -------------------------------------------------------------------


def _enter(directory: Path, words: list[str]) -> None:
    """Set up the conditions, become the user, and exec the command. Does not return."""
    image = words[0] if words[0] in _AS_IMAGE else ""
    writable, root = directory, Path("/")
    if image:
        files, root, words = Path(words[1]), Path(words[2]), words[3:]
        directory, writable = _set_up_run(files, root, has_tunnels=_AS_IMAGE[image])
    else:
        _mount("-t", "tmpfs", "-o", f"mode=755,uid={UID},gid={UID}", "tmpfs", str(directory))
    _let_others_pass((Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[2]))
    binaries = _wrappers(directory)
    for place in _writable_mounts():
        if place != str(writable) and not place.startswith(_KERNELS):
            _mount("-o", "remount,bind,ro", place)
    environ = {
        "PATH": f"{binaries}:{os.environ['PATH']}" if root == Path("/") else IMAGE_PATH,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TUNNELS_TEST_USER": USER,
    }
    if not image:
        environ |= {"PYTEST_DEBUG_TEMPROOT": str(directory), "TMPDIR": str(directory)}
    chroot = shutil.which("chroot", path=f"{os.environ['PATH']}:/usr/sbin") or "chroot"
    drop = [chroot, str(root)] * (root != Path("/"))  # it changes the working directory
    drop += ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs"]
    drop += ["--bounding-set=-all", "--inh-caps=-all", "--"]
    # The kernel forgets the parent's death signal when credentials change.
    drop += ["setpriv", "--pdeathsig=KILL", "--"]
    os.execvpe(drop[0], [*drop, *words], environ)  # noqa: S606 - the words are an argument list, not a shell's


def _set_up_run(files: Path, root: Path, *, has_tunnels: bool) -> tuple[Path, Path]:
    """Replace /run of this root. Returns the directory for the wrappers, and that which stays writable."""
    if root != Path("/"):
        _mount("--bind", str(root), str(root))
        for kernel in ("proc", "dev"):
            _mount("--rbind", f"/{kernel}", str(root / kernel))
    run = root / "run"
    for place in reversed(_writable_mounts()):
        if place.startswith(f"{run}/"):
            subprocess.run(["umount", "--lazy", place], check=True)
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(run))
    copied = shutil.copytree(files, root / FILES.relative_to("/"))
    for path in (copied, *copied.rglob("*")):
        os.chown(path, UID, UID)
    wrappers, tunnels = run / "wrappers", run / "tunnels"
    wrappers.mkdir()
    if has_tunnels:
        tunnels.mkdir()
        _mount("-t", "tmpfs", "-o", f"mode=700,uid={UID},gid={UID}", "tmpfs", str(tunnels))
    return wrappers, tunnels


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def _writable_mounts() -> list[str]:
    """Return the mount points that are not read-only, the deepest last."""
    fields = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return sorted({words[4].replace("\\040", " ") for words in fields if "rw" in words[5].split(",")})


def _let_others_pass(paths: tuple[Path, ...]) -> None:
    """Make these directories accessible to all users, also if a parent such as /root is private."""
    closed: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(one.resolve() for one in paths):
        outermost = next((one for one in reversed(path.parents) if not one.stat().st_mode & 0o001), None)
        if outermost is not None:
            closed.setdefault(outermost, []).append(path)
    for private, inner in closed.items():
        with tempfile.TemporaryDirectory(dir="/run") as staging:
            kept = []
            for number, path in enumerate(inner):
                staged = Path(staging) / str(number)
                staged.mkdir()
                _mount("--bind", str(path), str(staged))
                kept.append(staged)
            _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(private))
            for staged, path in zip(kept, inner, strict=True):
                path.mkdir(parents=True, exist_ok=True)
                _mount("--move", str(staged), str(path))


def _wrappers(directory: Path) -> Path:
    """Return a directory of wrapped commands, for which the user has a name."""
    binaries = directory / "bin"
    binaries.mkdir()
    # When it is imported, asyncssh looks for a library by a compiler if there is one, which needs temporary files.
    (binaries / "gcc").symlink_to("/bin/false")
    passwd, group = directory / "passwd", directory / "group"
    passwd.write_text(f"root:x:0:0::/root:/bin/sh\n{USER}:x:{UID}:{UID}::{directory}:/bin/sh\n")
    group.write_text(f"root:x:0:\n{USER}:x:{UID}:\n")
    versioned = map(str, Path("/usr/lib/postgresql").glob("*/bin"))
    path = ":".join([*versioned, os.environ["PATH"], "/usr/sbin"])
    for name in _NEED_A_NAME:
        real = shutil.which(name, path=path)
        if real is None:
            continue
        lines = [
            "#!/bin/sh",
            f': "${{NSS_WRAPPER_PASSWD:={passwd}}}" "${{NSS_WRAPPER_GROUP:={group}}}"',
            f"LD_PRELOAD={_library()}",
            "export NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP LD_PRELOAD",
            f'exec {shlex.quote(str(Path(real).absolute()))} "$@"',
        ]
        (binaries / name).write_text("\n".join(lines) + "\n")
        (binaries / name).chmod(0o755)
    return binaries


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
