"""Every way to log in, on a real sshd, and the message when one fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import asyncssh
import pytest

from integration.dialling import (
    access,
    certified_login,
    dialled,
    failure_of,
    hop,
    key_login,
    sshd_with_authority,
    strict,
)
from reconciler.core.observed import Failure, Reason
from reconciler.core.secret import FromEnv, FromFile, Inline, Secret
from reconciler.core.spec import AgentLogin, Endpoint, KeyLogin, Login, PasswordLogin
from support.agent import ssh_add, ssh_agent
from support.keys import Keys
from support.special_files import SPECIAL, put
from support.sshd import Sshd
from support.wait import eventually, fd_count, free_port

PASSPHRASE = "correct horse"


PATIENT = 60.0  # seconds: to open one encrypted key costs a second of the processor


async def with_login(sshd: Sshd, *logins: Login, environ: dict[str, str] | None = None) -> None:
    """Log in, or raise."""
    async with dialled(access(hop(sshd, logins=logins)), environ=environ, connect_timeout=PATIENT) as result:
        assert result.connection.get_extra_info("username") == sshd.user


async def refused(sshd: Sshd, *logins: Login, environ: dict[str, str] | None = None) -> Failure:
    return await failure_of(access(hop(sshd, logins=logins)), environ=environ, connect_timeout=PATIENT)


# --- keys -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"])
async def test_a_key_logs_in(sshd: Sshd, keys: Keys, kind: str) -> None:
    key = keys.make("id", kind=kind)
    sshd.authorize(key)
    await with_login(sshd, key_login(key.private))


@pytest.mark.parametrize("form", ["openssh", "pkcs1-pem", "pkcs8-pem"])
async def test_an_encrypted_key_logs_in_with_its_passphrase(sshd: Sshd, keys: Keys, form: str) -> None:
    key = keys.make("id", kind="ssh-rsa")
    sshd.authorize(key)
    private = asyncssh.read_private_key(key.private)
    key.private.write_bytes(private.export_private_key(form, passphrase=PASSPHRASE))
    file = keys.directory / "passphrase"
    file.write_text(PASSPHRASE + "\n")
    await with_login(sshd, KeyLogin(FromFile(str(key.private)), FromFile(str(file)), None))


async def test_a_key_logs_in_from_the_environment_also_with_its_line_ends_escaped(sshd: Sshd) -> None:
    content = sshd.client_key.read_text()
    login = KeyLogin(FromEnv("SSH_KEY"), None, None)
    await with_login(sshd, login, environ={"SSH_KEY": content})
    await with_login(sshd, login, environ={"SSH_KEY": content.rstrip().replace("\n", "\\n")})


async def test_a_literal_key_logs_in(sshd: Sshd) -> None:
    await with_login(sshd, KeyLogin(Inline(Secret(sshd.client_key.read_text())), None, None))


async def test_the_second_key_is_tried_when_the_first_is_refused(sshd: Sshd, keys: Keys) -> None:
    await with_login(sshd, key_login(keys.make("other").private), key_login(sshd.client_key))


async def test_an_rsa_key_logs_in_to_a_server_that_takes_no_sha1(tmp_path: Path, keys: Keys) -> None:
    key = keys.make("id", kind="ssh-rsa")
    async with Sshd(tmp_path / "sshd", options={"PubkeyAcceptedAlgorithms": "rsa-sha2-512"}, client=key) as sshd:
        await with_login(sshd, key_login(key.private))


async def test_a_refused_key_is_named_and_the_user_too(sshd: Sshd, keys: Keys) -> None:
    key = keys.make("other")
    failure = await refused(sshd, key_login(key.private))
    assert failure.reason is Reason.AUTH
    assert f"{sshd.user} with key {key.private}" in failure.message


@pytest.mark.parametrize(
    ("logins", "ours", "add"),
    [
        ((), "has no login", "add `privateKey` or `agent`"),
        ((PasswordLogin(Inline(Secret("hunter2"))),), "has only a password", "add `privateKey` or `agent`"),
    ],
)
async def test_the_message_names_the_methods_that_have_no_credential(
    sshd: Sshd, logins: tuple[Login, ...], ours: str, add: str
) -> None:
    failure = await refused(sshd, *logins)
    assert failure.reason is Reason.AUTH
    assert f"accepts publickey from {sshd.user}; the file {ours} for it: {add}" in failure.message
    assert failure.advice == add


async def test_a_server_that_accepts_only_passwords_is_reported(sshd: Sshd, tmp_path: Path) -> None:
    async with password_server(tmp_path, [], password=True, keyboard=True) as endpoint:
        to = hop(sshd, hosts=(endpoint,), trust=strict(tmp_path / "known"))
        failure = await failure_of(access(to))
    assert failure.reason is Reason.AUTH
    assert "accepts password or keyboard-interactive" in failure.message
    assert failure.message.endswith("the file has only a key for it: add `password`")


async def test_an_accepted_key_that_is_not_enough_is_not_called_refused(tmp_path: Path) -> None:
    options = {"AuthenticationMethods": "publickey,password", "PasswordAuthentication": "yes"}
    async with Sshd(tmp_path / "sshd-both", options=options) as sshd:
        failure = await refused(sshd, key_login(sshd.client_key))
    assert failure.reason is Reason.AUTH
    assert f"accepts key {sshd.client_key} from {sshd.user}, and requires password too" in failure.message
    assert "refused" not in failure.message


async def test_too_many_keys_are_a_matter_of_authentication(tmp_path: Path, keys: Keys) -> None:
    async with Sshd(tmp_path / "sshd", options={"MaxAuthTries": "2"}) as sshd:
        failure = await refused(sshd, *(key_login(keys.make(f"id{number}").private) for number in range(4)))
    assert failure.reason is Reason.AUTH
    assert "too many" in failure.message


async def test_a_certificate_beside_the_key_is_not_picked_up(tmp_path: Path, keys: Keys) -> None:
    """The server takes certificates only, and the key has one under the name that ssh looks for."""
    authority, key = keys.make("ca"), keys.make("id")
    keys.certify(key, authority)
    async with sshd_with_authority(tmp_path, authority) as sshd:
        assert (await refused(sshd, key_login(key.private))).reason is Reason.AUTH


# --- what cannot be read ----------------------------------------------------------------------------------------


def unreadable_keys(directory: Path, keys: Keys) -> Iterator[tuple[str, Login, str, str]]:
    """Each with a part of the message, and a part of the fix."""
    key = keys.make("id", passphrase=PASSPHRASE)
    source = FromFile(str(key.private))
    wrong, garbage = directory / "wrong", directory / "garbage"
    wrong.write_text("wrong")
    garbage.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
    empty = directory / "empty"
    empty.touch()
    yield "missing", key_login(directory / "nowhere"), "No such file", "check that it exists"
    yield "directory", key_login(directory), "it is a directory, expected a regular file", "check that it exists"
    os.mkfifo(directory / "pipe")
    yield "pipe", key_login(directory / "pipe"), "it is a pipe, expected a regular file", "check that it exists"
    yield "empty", key_login(empty), "empty", "check that it exists"
    yield "garbage", key_login(garbage), "not a valid private key", "as ssh-keygen wrote it"
    yield "public", key_login(key.public), "public key", "name the private key"
    yield "no passphrase", KeyLogin(source, None, None), "encrypted", "give its `passphrase`"
    yield "wrong", KeyLogin(source, FromFile(str(wrong)), None), "passphrase does not decrypt", "correct `passphrase`"
    yield "unset", KeyLogin(FromEnv("NOT_SET"), None, None), "$NOT_SET", "check that it exists"
    yield "no password file", PasswordLogin(FromFile(str(directory / "pw"))), "No such file", "check that it exists"
    yield "no agent", AgentLogin("", ""), "`agent: true` needs an agent", "where ssh-agent is"
    yield "dead agent", AgentLogin(str(empty), ""), "does not answer", "correct its path"


@pytest.mark.parametrize("kind", SPECIAL)
async def test_a_special_file_is_neither_an_agent_nor_a_public_key(sshd: Sshd, tmp_path: Path, kind: str) -> None:
    make, said = SPECIAL[kind]
    put(tmp_path / "odd", make)
    failure = await refused(sshd, AgentLogin("/nowhere", str(tmp_path / "odd")))
    assert failure.reason is Reason.SECRET_UNREADABLE
    assert f"{tmp_path}/odd" in failure.message
    assert said.lower() in failure.message.lower()
    failure = await refused(sshd, AgentLogin(str(tmp_path / "odd"), ""))
    assert failure.reason is Reason.SECRET_UNREADABLE
    assert f"the SSH agent at {tmp_path}/odd does not answer" in failure.message


async def test_every_unusable_credential_is_named_with_its_fix_and_never_shown(
    sshd: Sshd, keys: Keys, tmp_path: Path
) -> None:
    for case, login, part, fix in unreadable_keys(tmp_path, keys):
        failure = await refused(sshd, login)
        assert failure.reason is Reason.SECRET_UNREADABLE, case
        assert part in failure.message, (case, failure.message)
        assert fix in failure.advice, (case, failure.advice)
        assert "AAAA" not in failure.message, case
        assert PASSPHRASE not in failure.message, case
    assert sshd.sessions() == 0


async def test_a_key_that_others_may_read_warns_and_strictly_is_refused(sshd: Sshd) -> None:
    sshd.client_key.chmod(0o640)
    async with dialled(access(hop(sshd))) as result:
        assert "0640" in result.warnings[0]
    failure = await failure_of(access(hop(sshd, strict_key_permissions=True)))
    assert failure.reason is Reason.SECRET_UNREADABLE
    assert "chmod 600" in failure.message


async def test_a_user_without_a_name_can_dial(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a random uid, as in OpenShift, there is no entry in passwd and often neither LOGNAME nor HOME."""

    def nobody(_uid: int) -> None:
        raise KeyError(_uid)

    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setattr("os.environ", os.environ.copy())  # what is set stays in this test
    await with_login(sshd, key_login(sshd.client_key))


# --- certificates -----------------------------------------------------------------------------------------------


async def test_a_certificate_logs_in_and_its_end_is_known(tmp_path: Path, keys: Keys) -> None:
    authority, key = keys.make("ca"), keys.make("id")
    async with sshd_with_authority(tmp_path, authority) as sshd:
        certificate = keys.certify(key, authority, principals=[sshd.user])
        async with dialled(access(hop(sshd, logins=(certified_login(key, certificate),)))) as result:
            assert result.certificate_expires == pytest.approx(time.time() + 3600, abs=60)


async def test_a_certificate_made_by_ssh_keygen_logs_in(tmp_path: Path, keys: Keys) -> None:
    authority, key = keys.make("ca"), keys.make("id", kind="ssh-rsa")
    async with sshd_with_authority(tmp_path, authority) as sshd:
        await with_login(sshd, certified_login(key, keys.sign(key, authority, "-n", sshd.user)))


async def test_an_expired_certificate_says_when(tmp_path: Path, keys: Keys) -> None:
    authority, key = keys.make("ca"), keys.make("id")
    async with sshd_with_authority(tmp_path, authority) as sshd:
        certificate = keys.certify(key, authority, principals=[sshd.user], valid_before="20200102")
        failure = await refused(sshd, certified_login(key, certificate))
        assert failure.reason is Reason.CERTIFICATE_EXPIRED
        assert "2020-01-0" in failure.message


async def test_another_login_helps_where_a_certificate_has_expired(sshd: Sshd, keys: Keys) -> None:
    authority, key = keys.make("ca"), keys.make("id")
    expired = certified_login(key, keys.certify(key, authority, valid_before="20200102"))
    await with_login(sshd, expired, key_login(sshd.client_key))
    # and where the other one does not help, the certificate is what has to be renewed
    assert (await refused(sshd, expired, key_login(key.private))).reason is Reason.CERTIFICATE_EXPIRED


async def test_a_certificate_for_another_key_is_named(sshd: Sshd, keys: Keys) -> None:
    authority, key, other = keys.make("ca"), keys.make("id"), keys.make("other")
    failure = await refused(sshd, certified_login(key, keys.certify(other, authority)))
    assert failure.reason is Reason.AUTH
    assert "another key" in failure.message


# --- agents -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Path]:
    async with ssh_agent(tmp_path / "agent") as path:
        yield path


async def test_a_key_of_the_agent_logs_in(sshd: Sshd, keys: Keys, agent: Path) -> None:
    ssh_add(agent, keys.make("other").private, sshd.client_key)
    before = fd_count()
    await with_login(sshd, AgentLogin(str(agent), ""))
    await with_login(sshd, AgentLogin("", ""), environ={"SSH_AUTH_SOCK": str(agent)})
    await eventually(lambda: fd_count() <= before)


async def test_a_public_key_file_picks_the_one_key_of_the_agent(tmp_path: Path, keys: Keys, agent: Path) -> None:
    others = [keys.make(f"other{number}") for number in range(4)]
    async with Sshd(tmp_path / "sshd-one", options={"MaxAuthTries": "2"}) as sshd:
        ssh_add(agent, *(key.private for key in others), sshd.client_key)
        assert (await refused(sshd, AgentLogin(str(agent), ""))).reason is Reason.AUTH
        await with_login(sshd, AgentLogin(str(agent), str(sshd.client.public)))


async def test_a_missing_agent_is_reported_unless_another_login_succeeds(sshd: Sshd, tmp_path: Path) -> None:
    gone = AgentLogin(str(tmp_path / "gone"), "")
    failure = await refused(sshd, gone)
    assert failure.reason is Reason.SECRET_UNREADABLE
    assert str(tmp_path / "gone") in failure.message
    assert "SSH_AUTH_SOCK" in (await refused(sshd, AgentLogin("", ""))).message
    await with_login(sshd, gone, key_login(sshd.client_key))


async def test_a_public_key_file_without_an_agent_suggests_the_private_key(sshd: Sshd) -> None:
    failure = await refused(sshd, AgentLogin("", str(sshd.client.public)))
    assert failure.reason is Reason.SECRET_UNREADABLE
    assert f"{sshd.client.public} selects a key of the agent, and there is none ($SSH_AUTH_SOCK" in failure.message
    assert failure.advice == f"name {sshd.client.private} if the private key itself is meant"
    assert "agent: true" not in failure.message


async def test_an_agent_without_the_key_is_reported(sshd: Sshd, keys: Keys, agent: Path) -> None:
    ssh_add(agent, keys.make("other").private)
    failure = await refused(sshd, AgentLogin(str(agent), str(sshd.client.public)))
    assert failure.reason is Reason.SECRET_UNREADABLE
    assert "ssh-add" in failure.message


@pytest.mark.parametrize("answers", [0, 1])
async def test_an_agent_that_hangs_is_not_waited_for(sshd: Sshd, tmp_path: Path, agent: Path, answers: int) -> None:
    """At the first question, which keys it has; or at the second, to sign."""
    ssh_add(agent, sshd.client_key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        real_reader, real_writer = await asyncio.open_unix_connection(agent)
        for _ in range(answers):
            real_writer.write(await reader.read(65536))
            writer.write(await real_reader.read(65536))
        while await reader.read(65536):
            pass
        real_writer.close()
        writer.close()

    hanging = tmp_path / "hanging"
    before = fd_count()
    async with await asyncio.start_unix_server(serve, hanging):
        to = access(hop(sshd, logins=(AgentLogin(str(hanging), ""),)))
        failure = await failure_of(to, connect_timeout=2)
        assert failure.reason is (Reason.TIMEOUT if answers else Reason.SECRET_UNREADABLE)
        await eventually(lambda: fd_count() <= before + 1)


# --- passwords --------------------------------------------------------------------------------------------------


class _Passwords(asyncssh.SSHServer):
    """Takes the password `secret`, by the methods asked for; counts the tries."""

    tries: list[str]
    prompts: Sequence[tuple[str, bool]]
    by_password = by_keyboard = False

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return self.by_password

    def kbdint_auth_supported(self) -> bool:
        return self.by_keyboard

    def validate_password(self, username: str, password: str) -> bool:
        self.tries.append(password)
        return password == "secret"

    def get_kbdint_challenge(
        self, username: str, lang: str, submethods: str
    ) -> tuple[str, str, str, Sequence[tuple[str, bool]]]:
        return "", "", "", self.prompts

    def validate_kbdint_response(self, username: str, responses: Sequence[str]) -> bool:
        self.tries += responses
        return list(responses) == ["secret"]


@contextlib.asynccontextmanager
async def password_server(
    tmp_path: Path, tries: list[str], *, password: bool = False, keyboard: bool = False, prompt: str = "Password: "
) -> AsyncIterator[Endpoint]:
    server_key = asyncssh.generate_private_key("ssh-ed25519")
    kind = type(
        "Server",
        (_Passwords,),
        {"tries": tries, "prompts": [(prompt, False)], "by_password": password, "by_keyboard": keyboard},
    )
    endpoint = Endpoint("127.0.0.1", free_port())
    (tmp_path / "known").write_text(
        f"[{endpoint.host}]:{endpoint.port} {server_key.export_public_key().decode()}", encoding="ascii"
    )
    async with await asyncssh.listen(endpoint.host, endpoint.port, server_factory=kind, server_host_keys=[server_key]):
        yield endpoint


@pytest.mark.parametrize(("password", "keyboard"), [(True, False), (False, True), (True, True)])
async def test_a_password_logs_in_by_either_method(sshd: Sshd, tmp_path: Path, password: bool, keyboard: bool) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n")
    tries: list[str] = []
    async with password_server(tmp_path, tries, password=password, keyboard=keyboard) as endpoint:
        login = PasswordLogin(FromFile(str(file)))
        to = hop(sshd, hosts=(endpoint,), logins=(login,), trust=strict(tmp_path / "known"))
        async with dialled(access(to)):
            assert tries == ["secret"]


async def test_a_wrong_password_is_given_once_for_each_method_and_never_shown(sshd: Sshd, tmp_path: Path) -> None:
    tries: list[str] = []
    async with password_server(tmp_path, tries, password=True, keyboard=True) as endpoint:
        login = PasswordLogin(Inline(Secret("hunter2")))
        to = hop(sshd, hosts=(endpoint,), logins=(login,), trust=strict(tmp_path / "known"))
        failure = await failure_of(access(to))
    assert failure.reason is Reason.AUTH
    assert "hunter2" not in failure.message
    assert tries == ["hunter2", "hunter2"]
