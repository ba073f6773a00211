"""Keys, agents and certificates that a server accepts only in some way, and the message of a login that fails."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import asyncssh
import pytest
from asyncssh import auth, connection
from asyncssh.packet import SSHPacket

from integration.dialling import (
    OURS,
    access,
    certified_login,
    dialled,
    failure_of,
    hop,
    key_login,
    sshd_with_authority,
)
from reconciler.core.observed import Failure, Reason
from reconciler.core.secret import FromEnv, FromFile, Inline, Secret
from reconciler.core.spec import AgentLogin, Algorithms, KeyLogin, Login
from support.agent import ssh_add, ssh_agent
from support.asyncssh_server import AsyncsshServer
from support.keys import KeyPair, Keys
from support.sshd import Sshd, sshd_takes

WITH_SHA1 = Algorithms((), (), (), ("ssh-ed25519", "ssh-rsa"))


async def logs_in(server: Sshd | AsyncsshServer, *logins: Login, algorithms: Algorithms = OURS) -> None:
    async with dialled(access(hop(server, logins=logins, algorithms=algorithms))):
        pass


def command(arguments: list[str]) -> None:
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)


async def refused(server: Sshd | AsyncsshServer, *logins: Login) -> Failure:
    return await failure_of(access(hop(server, logins=logins)))


# --- signatures of RSA keys -------------------------------------------------------------------------------------


@pytest.fixture
def no_extensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server from before RFC 8308: it does not announce which signatures it takes."""
    extra = connection.SSHConnection._get_extra_kex_algs
    monkeypatch.setattr(
        connection.SSHServerConnection,
        "_get_extra_kex_algs",
        lambda self: [name for name in extra(self) if name != b"ext-info-s"],
    )
    never = property(lambda _: False, lambda *_: None)
    monkeypatch.setattr(connection.SSHServerConnection, "_can_send_ext_info", never, raising=False)


def take_only(monkeypatch: pytest.MonkeyPatch, server: AsyncsshServer, *signatures: str) -> None:
    """Announce and take these signatures only. asyncssh's server takes what it did not announce, too."""
    start = auth._ServerPublicKeyAuth._start
    server.options["signature_algs"] = list(signatures)

    async def checked(self: auth._ServerPublicKeyAuth, packet: SSHPacket) -> None:
        fields = SSHPacket(packet.get_remaining_payload())
        fields.get_boolean()
        if fields.get_string().decode() in signatures:
            await start(self, packet)
        else:
            self.send_failure()

    monkeypatch.setattr(auth._ServerPublicKeyAuth, "_start", checked)


@contextlib.asynccontextmanager
async def rsa_server(tmp_path: Path, keys: Keys) -> AsyncIterator[AsyncsshServer]:
    async with AsyncsshServer(tmp_path / "server", client=keys.make("id", kind="ssh-rsa")) as server:
        yield server


@pytest.mark.usefixtures("no_extensions")
@pytest.mark.parametrize("takes", ["rsa-sha2-512", "ssh-rsa"])
async def test_a_server_that_announces_no_signatures_gets_sha1_only_if_allowed(
    tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch, takes: str
) -> None:
    async with rsa_server(tmp_path, keys) as server:
        take_only(monkeypatch, server, takes)
        await logs_in(server, key_login(server.client_key), algorithms=WITH_SHA1)
        if takes == "rsa-sha2-512":
            await logs_in(server, key_login(server.client_key))
            return
        failure = await refused(server, key_login(server.client_key))
        assert failure.reason is Reason.AUTH
        assert "does not announce that it takes RSA keys with SHA-2" in failure.message
        assert failure.message.endswith("accept that with `algorithms: {hostKey: [ssh-ed25519, ssh-rsa]}`")


async def test_a_server_that_announces_sha1_only_is_said_to_take_sha1_only(
    tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rsa_server(tmp_path, keys) as server:
        take_only(monkeypatch, server, "ssh-rsa")
        failure = await refused(server, key_login(server.client_key))
        assert failure.reason is Reason.AUTH
        assert "accepts RSA keys with SHA-1 signatures only, so key" in failure.message
        assert "was not tried" in failure.message
        assert "`algorithms: {hostKey: [ssh-ed25519, ssh-rsa]}`" in failure.message
        await logs_in(server, key_login(server.client_key), algorithms=WITH_SHA1)


async def test_a_key_that_is_not_tried_is_named_beside_the_refused_ones(
    tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = keys.make("other")
    async with rsa_server(tmp_path, keys) as server:
        take_only(monkeypatch, server, "ssh-rsa", "ssh-ed25519")
        failure = await refused(server, key_login(server.client_key), key_login(other.private))
    assert f"refused the login of tester with key {other.private}, and accepts RSA keys with SHA-1" in failure.message
    assert f"so key {server.client_key} was not tried" in failure.message


async def test_a_dsa_key_logs_in_if_the_file_names_it(tmp_path: Path, keys: Keys) -> None:
    if not sshd_takes("PubkeyAcceptedAlgorithms=+ssh-dss"):
        pytest.skip("this sshd has no DSA (since 10.0)")
    pair = keys.make("id_dsa", kind="ssh-dss")
    key, options = pair.private, {"PubkeyAcceptedAlgorithms": "+ssh-dss"}
    async with Sshd(tmp_path / "sshd", options=options, client=pair) as sshd:
        failure = await refused(sshd, key_login(key))
        assert f"takes no signature that key {key} can make here" in failure.message
        assert failure.advice.endswith("or name `ssh-dss` in `algorithms.hostKey`")
        await logs_in(sshd, key_login(key), algorithms=Algorithms((), (), (), ("ssh-ed25519", "ssh-dss")))


async def test_sha1_is_tried_after_sha2_where_the_file_allows_it(tmp_path: Path, keys: Keys) -> None:
    """The server announces both, and takes one. OpenSSH announces that one from 9.6 on."""
    key = keys.make("id", kind="ssh-rsa")
    options = {"PubkeyAcceptedAlgorithms": "ssh-rsa"}
    async with Sshd(tmp_path / "sshd", options=options, client=key) as sshd:
        failure = await refused(sshd, key_login(key.private))
        assert re.search(r"accept (that|SHA-1) with `algorithms: \{hostKey:", failure.message)
        await logs_in(sshd, key_login(key.private), algorithms=WITH_SHA1)


async def test_a_refused_rsa_key_with_sha1_allowed_has_the_usual_fix(sshd: Sshd, keys: Keys) -> None:
    to = hop(sshd, logins=(key_login(keys.make("other", kind="ssh-rsa").private),), algorithms=WITH_SHA1)
    failure = await failure_of(access(to))
    assert failure.advice == "check `user` and the key here, and authorized_keys on the server"


# --- more than one key ------------------------------------------------------------------------------------------


async def test_two_keys_log_in_where_the_server_requires_two(tmp_path: Path, keys: Keys) -> None:
    first, second = keys.make("first"), keys.make("second", kind="ssh-rsa")
    options = {"AuthenticationMethods": "publickey,publickey"}
    async with Sshd(tmp_path / "sshd", options=options, client=first) as sshd:
        sshd.authorize(second)
        await logs_in(sshd, key_login(first.private), key_login(second.private))
        failure = await refused(sshd, key_login(first.private))
        assert failure.reason is Reason.AUTH
        assert f"accepts key {first.private} from {sshd.user}, and requires another key too" in failure.message
        assert "add that key to `privateKey`" in failure.advice
        assert "refused" not in failure.message
        other = keys.make("other")
        failure = await refused(sshd, key_login(other.private), key_login(first.private))
        assert f"accepts key {first.private} from {sshd.user}, and requires another key too" in failure.message
        failure = await refused(sshd, key_login(first.private), key_login(other.private))
        said = (
            f"accepts key {first.private} from {sshd.user}, requires another key too, and refused key {other.private}"
        )
        assert said in failure.message


# --- agents -----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def agent_with(directory: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> AsyncIterator[Path]:
    """Run an agent, and add keys to it with these arguments of ssh-add."""
    async with ssh_agent(directory / "agent", environ) as path:
        ssh_add(path, *arguments, environ=environ)
        yield path


REFUSES = {"SSH_ASKPASS": "/bin/false", "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0"}


async def test_an_agent_that_refuses_to_sign_is_named(sshd: Sshd, tmp_path: Path) -> None:
    async with agent_with(tmp_path, "-c", str(sshd.client_key), environ=REFUSES) as agent:
        failure = await refused(sshd, AgentLogin(str(agent), ""))
        await logs_in(sshd, AgentLogin(str(agent), ""), key_login(sshd.client_key))
    assert failure.reason is Reason.AUTH
    assert f"accepts agent {agent}" in failure.message
    assert f"from {sshd.user}, but the agent refuses to sign with it" in failure.message
    assert "ssh-add -X" in failure.advice
    assert "authorized_keys" not in failure.message


async def test_a_locked_agent_may_be_the_reason_for_no_key(sshd: Sshd, tmp_path: Path) -> None:
    async with agent_with(tmp_path, str(sshd.client_key)) as agent:
        ask = tmp_path / "ask"
        ask.write_text("#!/bin/sh\necho word\n")
        ask.chmod(0o700)
        ssh_add(agent, "-x", environ={**REFUSES, "SSH_ASKPASS": str(ask)})
        failure = await refused(sshd, AgentLogin(str(agent), ""))
    assert failure.reason is Reason.SECRET_UNREADABLE
    assert failure.message.endswith("or is locked: add it with ssh-add, or unlock the agent (ssh-add -X)")


async def test_an_agent_that_ends_before_it_signs_is_named(sshd: Sshd, tmp_path: Path) -> None:
    async with agent_with(tmp_path, str(sshd.client_key)) as real:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            real_reader, real_writer = await asyncio.open_unix_connection(real)
            real_writer.write(await reader.read(65536))
            writer.write(await real_reader.read(65536))
            await reader.read(65536)
            real_writer.close()
            writer.close()

        async with await asyncio.start_unix_server(serve, tmp_path / "ends"):
            failure = await refused(sshd, AgentLogin(str(tmp_path / "ends"), ""))
    assert failure.reason is Reason.AUTH
    assert "the agent ended before it signed" in failure.message


# --- keys that cannot be decoded --------------------------------------------------------------------------------

PASSPHRASE = "correct horse"
FORMS = {
    "openssh": ["-t", "ed25519"],
    "pem": ["-t", "rsa", "-m", "PEM"],
    "pem of a curve": ["-t", "ecdsa", "-m", "PEM"],
    "pkcs8": ["-t", "rsa", "-m", "PKCS8"],
}


@pytest.mark.parametrize("form", FORMS)
async def test_a_wrong_passphrase_is_named_for_every_form_of_key(sshd: Sshd, tmp_path: Path, form: str) -> None:
    key = tmp_path / "key"
    command(["ssh-keygen", "-q", "-N", PASSPHRASE, "-f", str(key), *FORMS[form]])
    failure = await refused(sshd, KeyLogin(FromFile(str(key)), Inline(Secret("wrong")), None))
    assert failure.reason is Reason.SECRET_UNREADABLE
    assert failure.message == f"the passphrase does not decrypt the private key {key}: correct `passphrase`"
    failure = await refused(sshd, KeyLogin(FromFile(str(key)), None, None))
    assert failure.message == f"the private key {key} is encrypted: give its `passphrase`"
    sshd.authorize(KeyPair(key))
    await logs_in(sshd, KeyLogin(FromFile(str(key)), Inline(Secret(PASSPHRASE)), None))


@pytest.mark.parametrize("cipher", ["-scrypt", "-v2 camellia256"])
async def test_a_key_in_an_unsupported_cipher_is_not_blamed_on_the_passphrase(
    sshd: Sshd, tmp_path: Path, cipher: str
) -> None:
    plain, key = tmp_path / "plain", tmp_path / "key"
    command(["openssl", "genrsa", "-out", str(plain), "1024"])
    options = ["-topk8", *cipher.split(), "-passout", f"pass:{PASSPHRASE}"]
    command(["openssl", "pkcs8", *options, "-in", str(plain), "-out", str(key)])
    failure = await refused(sshd, KeyLogin(FromFile(str(key)), Inline(Secret(PASSPHRASE)), None))
    assert f"{key} is encrypted in a way that this program does not read (Unknown" in failure.message
    assert "ssh-keygen -p" in failure.advice


@pytest.mark.parametrize(
    ("encoding", "end"), [("utf-8-sig", "\r\n"), ("utf-16", "\r\n"), ("utf-8", "\n"), ("utf-8", "")]
)
async def test_a_passphrase_is_read_as_editors_of_every_system_write_it(
    sshd: Sshd, keys: Keys, tmp_path: Path, encoding: str, end: str
) -> None:
    key = keys.make("id", kind="ecdsa-sha2-nistp256")
    sshd.authorize(key)
    private = asyncssh.read_private_key(key.private)
    key.private.write_bytes(private.export_private_key("pkcs1-pem", passphrase="pässword"))
    file = tmp_path / "passphrase"
    file.write_bytes(f"pässword{end}".encode(encoding))
    await logs_in(sshd, KeyLogin(FromFile(str(key.private)), FromFile(str(file)), None))


async def test_a_key_from_a_secret_logs_in_in_base64(sshd: Sshd) -> None:
    value = base64.b64encode(sshd.client_key.read_bytes()).decode()
    to = access(hop(sshd, logins=(KeyLogin(FromEnv("KEY"), None, None),)))
    async with dialled(to, environ={"KEY": value}):
        pass


FOREIGN = {
    "PuTTY-User-Key-File-3: ssh-ed25519\n": "a PuTTY key: convert it (puttygen",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA me\n": "a public key: name the private key",
    "---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n": "a public key: name the private key",
    "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n": "a public key: name the private key",
    "ssh-ed25519-cert-v01@openssh.com AAAAI me\n": "a certificate: name the private key, and this as `certificate`",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNza": "a private key without its end (-----END ...-----): copy",
    "b3BlbnNza\n-----END OPENSSH PRIVATE KEY-----\n": "a private key without its beginning",
    "\x7fELF\x02\x01": "on a hardware token (PKCS #11): add it to an SSH agent",
    "\0\0\0\x0bssh-ed25519\0\0": "a Dropbear key: convert it (dropbearconvert",
    "pkcs11:token=a;object=b": "on a hardware token (PKCS #11): add it to an SSH agent",
    "-----BEGIN TSS2 PRIVATE KEY-----\nMA==\n-----END TSS2 PRIVATE KEY-----\n": "a key that only its TPM can use",
    "$ANSIBLE_VAULT;1.1;AES256\n3132\n": "encrypted by Ansible Vault: decrypt it first",
    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n": "an X.509 certificate: name the private key",
    "a.example ssh-ed25519 AAAAC3\n": "a known_hosts or authorized_keys file: name the private key",
    "op://vault/key/private": "a reference to a secret: resolve it",
    "\n": "empty: put the private key there",
    "hunter2": "not a valid private key: check that it is the file as ssh-keygen wrote it",
}


async def test_a_file_that_is_not_a_private_key_is_named(sshd: Sshd, tmp_path: Path) -> None:
    file = tmp_path / "given"
    for content, said in FOREIGN.items():
        file.write_text(content)
        failure = await refused(sshd, key_login(file))
        assert failure.reason is Reason.SECRET_UNREADABLE
        assert failure.message.startswith(f"{file} is {said}"), failure.message
    assert sshd.sessions() == 0


SECURITY_KEY = """-----BEGIN OPENSSH PRIVATE KEY-----
{}
-----END OPENSSH PRIVATE KEY-----
"""


def security_key(path: Path) -> Path:
    """Write a private key file of a FIDO device, as `ssh-keygen -t ed25519-sk` does: the device has the secret."""

    def string(data: bytes) -> bytes:
        return len(data).to_bytes(4) + data

    kind = string(b"sk-ssh-ed25519@openssh.com")
    public = kind + string(bytes(range(32))) + string(b"ssh:")
    private = b"same" * 2 + public + b"\x01" + string(b"handle of the device") + string(b"") + string(b"comment")
    private += bytes(range(1, 1 + -len(private) % 8))
    data = b"openssh-key-v1\0" + string(b"none") * 2 + string(b"") + (1).to_bytes(4) + string(public) + string(private)
    path.write_text(SECURITY_KEY.format(base64.encodebytes(data).decode().strip()))
    path.chmod(0o600)
    return path


async def test_a_key_of_a_security_key_needs_an_agent_and_another_login_helps(sshd: Sshd, tmp_path: Path) -> None:
    key = security_key(tmp_path / "id_ed25519_sk")
    failure = await refused(sshd, key_login(key))
    assert failure.reason is Reason.SECRET_UNREADABLE
    assert f"{key} (sk-ssh-ed25519@openssh.com) needs its security key (FIDO)" in failure.message
    assert "add it to an SSH agent" in failure.advice
    await logs_in(sshd, key_login(key), key_login(sshd.client_key))


# --- certificates -----------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def certified(tmp_path: Path, keys: Keys, **options: str) -> AsyncIterator[tuple[Sshd, KeyPair, KeyPair]]:
    """Run a server that takes certificates only. Yields it, the authority, and a key without a certificate yet."""
    authority, key = keys.make("ca"), keys.make("id")
    async with sshd_with_authority(tmp_path, authority, **options) as sshd:
        yield sshd, authority, key


def signed(keys: Keys, key: KeyPair, authority: KeyPair, *arguments: str) -> KeyLogin:
    return certified_login(key, keys.sign(key, authority, *arguments))


async def test_a_certificate_says_why_the_server_refuses_it(tmp_path: Path, keys: Keys) -> None:
    async with certified(tmp_path, keys) as (sshd, authority, key):
        cases = {
            (
                "-n",
                "alice,bob",
            ): f"with the certificate {key.private}-cert.pub, which is for alice, bob: correct `user`",
            (): "which names no user: have one signed for",
            (
                "-n",
                sshd.user,
                "-O",
                "source-address=10.9.0.0/16",
            ): "allows logins from 10.9.0.0/16 only (source-address)",
        }
        for arguments, said in cases.items():
            failure = await refused(sshd, signed(keys, key, authority, *arguments))
            assert failure.reason is Reason.AUTH
            assert said in failure.message
        failure = await refused(sshd, signed(keys, key, authority, "-h", "-n", sshd.user))
        assert f"{key.private}-cert.pub is a host certificate, which servers use" in failure.message
        failure = await refused(sshd, signed(keys, key, authority, "-n", sshd.user, "-V", "20300101:20400101"))
        assert failure.reason is Reason.CERTIFICATE_EXPIRED
        assert "-cert.pub is not valid before 20" in failure.message
        failure = await refused(sshd, signed(keys, key, authority, "-n", sshd.user, "-O", "critical:what@example.com"))
        assert "its critical options are `what@example.com`" in failure.message
        await logs_in(sshd, signed(keys, key, authority, "-n", sshd.user, "-O", "force-command=true"))


async def test_a_principal_that_the_server_maps_to_the_user_logs_in(tmp_path: Path, keys: Keys) -> None:
    file = tmp_path / "principals"
    file.write_text("team\n")
    async with certified(tmp_path, keys, AuthorizedPrincipalsFile=str(file)) as (sshd, authority, key):
        await logs_in(sshd, signed(keys, key, authority, "-n", "team"))
        failure = await refused(sshd, signed(keys, key, authority, "-n", "others"))
        assert "see AuthorizedPrincipalsFile on the server" in failure.advice


async def test_the_plain_key_logs_in_where_its_certificate_does_not(sshd: Sshd, keys: Keys) -> None:
    """As in ssh."""
    authority, key, other = keys.make("ca"), keys.make("id"), keys.make("other")
    sshd.authorize(key)
    await logs_in(sshd, signed(keys, key, authority, "-n", "alice", "-V", "20000101:20100101"))
    await logs_in(sshd, signed(keys, key, authority, "-h", "-n", "alice"))
    of_another = signed(keys, other, authority, "-n", "alice")
    await logs_in(sshd, KeyLogin(FromFile(str(key.private)), None, of_another.certificate))
    await logs_in(sshd, KeyLogin(FromFile(str(key.private)), None, FromFile(str(key.public))))


async def test_a_certificate_from_a_secret_is_restored(tmp_path: Path, keys: Keys) -> None:
    async with certified(tmp_path, keys) as (sshd, authority, key):
        login = signed(keys, key, authority, "-n", sshd.user)
        assert isinstance(login.certificate, FromFile)
        text = Path(login.certificate.path).read_text()
        changed = {
            "base64": base64.b64encode(text.encode()),
            "quotes": f'"{text.strip()}"'.encode(),
            "escapes": text.replace("\n", "\\n").encode(),
            "UTF-16": text.encode("utf-16"),
        }
        for content in changed.values():
            Path(login.certificate.path).write_bytes(content)
            await logs_in(sshd, login)


async def test_an_expired_certificate_of_an_agent_is_named(tmp_path: Path, keys: Keys) -> None:
    async with certified(tmp_path, keys) as (sshd, authority, key):
        login = signed(keys, key, authority, "-n", sshd.user, "-V", "20000101:20100101")
        assert isinstance(login.certificate, FromFile)
        pairs = [(str(key.private), login.certificate.path)]
        # ssh-add does not add an expired certificate (since OpenSSH 10.1).
        async with agent_with(tmp_path, "-D") as agent, asyncssh.connect_agent(str(agent)) as client:
            await client.add_keys(pairs)
            failure = await refused(sshd, AgentLogin(str(agent), ""))
        assert failure.reason is Reason.CERTIFICATE_EXPIRED
        assert f"of agent {agent} expired on 20" in failure.message


async def test_the_failure_of_a_certificate_that_becomes_valid_says_when(sshd: Sshd, keys: Keys) -> None:
    starts = int(time.time()) + 1000
    login = signed(keys, keys.make("id"), keys.make("ca"), "-n", sshd.user, "-V", "+1000s:+2000s")
    failure = await refused(sshd, login)
    assert failure.ends_at is not None
    assert starts - 100 < failure.ends_at < starts + 100
    assert not failure.needs_action
