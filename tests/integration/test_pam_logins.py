"""Logins to a real sshd with a PAM stack that asks, says or refuses something."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from integration.dialling import access, dialled, failure_of, hop, key_login
from reconciler.core.observed import Failure, Reason
from reconciler.core.secret import Inline, Secret
from reconciler.core.spec import Login, PasswordLogin
from support.pam import PamSshd, PamUnavailableError, has_module

PASSWORD = PasswordLogin(Inline(Secret("correct horse")))
BOTH = {
    "AuthenticationMethods": "publickey,keyboard-interactive",
    "KbdInteractiveAuthentication": "yes",
    "Subsystem": "sftp internal-sftp",
}
BY_KEYBOARD = {"AuthenticationMethods": "keyboard-interactive", "KbdInteractiveAuthentication": "yes"}


def pam_sshd(tmp_path: Path, *stack: str, options: dict[str, str]) -> PamSshd:
    lines = [*stack, *([] if any(line.startswith("account") for line in stack) else ["account required pam_permit.so"])]
    try:
        return PamSshd(tmp_path / "pam", "\n".join(lines), options=options)
    except PamUnavailableError as missing:
        pytest.skip(str(missing))


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "script"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def asks_password(tmp_path: Path) -> str:
    check = script(tmp_path, 'read -r given; test "$given" = "correct horse"')
    return f"auth required pam_exec.so quiet expose_authtok {check}"


async def check_ssh_logs_in(sshd: PamSshd) -> None:
    """Check that ssh logs in with the key, and no terminal to ask for anything.

    It asks for a subsystem that sshd has in itself. A command would run the user's shell with its start files.
    """
    options = (f"UserKnownHostsFile={sshd.known_hosts}", f"IdentityFile={sshd.client_key}", "IdentitiesOnly=yes")
    arguments = [argument for option in options for argument in ("-o", option)]
    command = ["ssh", "-v", "-F", "none", *arguments, "-p", str(sshd.port), "-s", f"{sshd.user}@{sshd.host}", "sftp"]
    pipe, quiet = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    ssh = await asyncio.create_subprocess_exec(*command, stdin=quiet, stderr=pipe, start_new_session=True)
    _, errors = await ssh.communicate()
    assert ssh.returncode == 0, f"ssh exited with {ssh.returncode}\n{errors.decode()}\n{sshd.log_text()}"


async def refused(sshd: PamSshd, *logins: Login) -> Failure:
    return await failure_of(access(hop(sshd, logins=logins)))


@pytest.mark.parametrize("more", [(), (PASSWORD,)], ids=["a key alone", "a key and a password"])
async def test_a_key_logs_in_where_the_keyboard_dialogue_asks_nothing(tmp_path: Path, more: Sequence[Login]) -> None:
    async with pam_sshd(tmp_path, "auth required pam_permit.so", options=BOTH) as sshd:
        await check_ssh_logs_in(sshd)
        async with dialled(access(hop(sshd, logins=(key_login(sshd.client_key), *more)))):
            pass


async def test_a_message_of_pam_without_a_question_is_kept(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("your password expires in 3 days\n")
    stack = ("auth required pam_permit.so", f"auth optional pam_echo.so file={text}")
    async with pam_sshd(tmp_path, *stack, options=BOTH) as sshd:
        async with dialled(access(hop(sshd))) as result:
            assert result.said == "`your password expires in 3 days`"


async def test_a_key_and_a_password_log_in(tmp_path: Path) -> None:
    async with pam_sshd(tmp_path, asks_password(tmp_path), options=BOTH) as sshd:
        key = key_login(sshd.client_key)
        async with dialled(access(hop(sshd, logins=(key, PASSWORD)))):
            pass
        alone = await refused(sshd, key)
        assert f"asks {sshd.user} `Password:` after key {sshd.client_key}" in alone.what
        assert alone.advice.startswith("add `password`")
        wrong = await refused(sshd, key, PasswordLogin(Inline(Secret("wrong"))))
        assert f"accepts key {sshd.client_key} from {sshd.user}, and refuses a password" in wrong.what


async def test_a_code_after_the_password_is_named(tmp_path: Path) -> None:
    if not has_module("pam_google_authenticator.so"):
        pytest.skip("libpam-google-authenticator is not installed")
    secret = tmp_path / "secret"
    secret.write_text('JBSWY3DPEHPK3PXP\n" TOTP_AUTH\n')
    secret.chmod(0o400)
    code = f"auth required pam_google_authenticator.so secret={secret} user=root"
    async with pam_sshd(tmp_path, asks_password(tmp_path), code, options=BY_KEYBOARD) as sshd:
        failure = await refused(sshd, PASSWORD)
        assert failure.reason is Reason.AUTH
        assert (
            "asks root `Verification code:` after a password, as for a one-time code or a new password" in failure.what
        )


async def test_the_words_of_a_refused_account_are_quoted(tmp_path: Path) -> None:
    refuse = script(tmp_path, 'echo "System is booting up. See https://status.example/boot"; exit 1')
    stack = ("auth required pam_permit.so", f"account required pam_exec.so quiet stdout {refuse}")
    async with pam_sshd(tmp_path, *stack, options={}) as sshd:
        failure = await refused(sshd, key_login(sshd.client_key))
        assert "System is booting up. See https://status.example/boot" in failure.message
        assert failure.advice.startswith("act on that, or ")


async def test_a_server_that_allows_one_try_refused_the_password(tmp_path: Path) -> None:
    async with pam_sshd(tmp_path, asks_password(tmp_path), options={**BY_KEYBOARD, "MaxAuthTries": "1"}) as sshd:
        failure = await refused(sshd, PasswordLogin(Inline(Secret("wrong"))))
        assert f"refused the login of {sshd.user} with a password, which answered `Password:`" in failure.what


async def test_a_slow_login_names_its_time_limit(tmp_path: Path) -> None:
    slow = f"auth required pam_exec.so quiet {script(tmp_path, 'sleep 60')}"
    async with pam_sshd(tmp_path, slow, options=BY_KEYBOARD) as sshd:
        failure = await failure_of(access(hop(sshd)), connect_timeout=1)
        assert failure.reason is Reason.TIMEOUT
        assert "did not finish the login within 1 s" in failure.what
        assert "`connectTimeout`" in failure.advice
