"""Key pairs and certificates as files in OpenSSH format, created for each test."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key file (mode 0600) and its `.pub` file."""

    private: Path

    @property
    def public(self) -> Path:
        return self.private.with_name(self.private.name + ".pub")

    @property
    def public_line(self) -> str:
        """`ssh-ed25519 AAAA... comment`, as in authorized_keys."""
        return self.public.read_text().strip()

    @property
    def fingerprint(self) -> str:
        """`SHA256:...`, as ssh shows it."""
        return asyncssh.read_public_key(self.public).get_fingerprint()


@dataclass(frozen=True, slots=True)
class Keys:
    """Makes keys in one directory."""

    directory: Path

    def make(self, name: str = "id_ed25519", *, passphrase: str | None = None, kind: str = "ssh-ed25519") -> KeyPair:
        return self.write(name, asyncssh.generate_private_key(kind, comment=name), passphrase=passphrase)

    def write(self, name: str, key: asyncssh.SSHKey, *, passphrase: str | None = None) -> KeyPair:
        """Write an existing key to files."""
        self.directory.mkdir(parents=True, exist_ok=True)
        pair = KeyPair(self.directory / name)
        _write_private(pair.private, key.export_private_key(passphrase=passphrase))
        key.write_public_key(pair.public)
        return pair

    def certify(
        self,
        pair: KeyPair,
        authority: KeyPair,
        *,
        principals: Sequence[str] = (),
        valid_after: int = 0,
        valid_before: str | int = "+1h",
    ) -> Path:
        """Write `NAME-cert.pub`, a user certificate for `pair`, and return its path."""
        signer = asyncssh.read_private_key(authority.private)
        certificate = signer.generate_user_certificate(
            asyncssh.read_public_key(pair.public),
            pair.private.name,
            principals=list(principals),
            valid_after=valid_after,
            valid_before=valid_before,
        )
        path = pair.private.with_name(pair.private.name + "-cert.pub")
        certificate.write_certificate(path)
        return path

    def sign(self, pair: KeyPair, authority: KeyPair, *arguments: str) -> Path:
        """Write `NAME-cert.pub` with these arguments of ssh-keygen, and return its path."""
        command = ["ssh-keygen", "-q", "-s", str(authority.private), "-I", "us", *arguments, str(pair.public)]
        subprocess.run(command, check=True)
        return pair.private.with_name(pair.private.name + "-cert.pub")

    def certify_host(self, host_key: KeyPair, authority: KeyPair, *, principals: Sequence[str] = ()) -> Path:
        """Write `NAME-cert.pub`, a host certificate (sshd's `HostCertificate`), and return its path."""
        signer = asyncssh.read_private_key(authority.private)
        certificate = signer.generate_host_certificate(
            asyncssh.read_public_key(host_key.public), host_key.private.name, principals=list(principals)
        )
        path = host_key.private.with_name(host_key.private.name + "-cert.pub")
        certificate.write_certificate(path)
        return path


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_bytes(content)
