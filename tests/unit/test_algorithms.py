"""Offers have no old algorithm, prefer fast ones, and asyncssh supports every name in them."""

from __future__ import annotations

from dataclasses import replace

import asyncssh
import pytest

from reconciler.core.spec import Algorithms
from reconciler.ssh.connect import algorithms
from reconciler.ssh.internals.keys.algorithm_names import supported

OURS = Algorithms((), (), (), ())
OLD = ("sha1", "md5", "3des", "-cbc", "arcfour", "ssh-dss")


def offers() -> dict[str, list[str]]:
    return {
        "kex": algorithms.kex_offer(OURS),
        "cipher": algorithms.cipher_offer(OURS),
        "mac": algorithms.mac_offer(OURS),
        "hostKey": algorithms.host_key_offer(OURS, (), certificates=True) + algorithms.signature_offer(OURS),
    }


def test_every_offered_name_is_known_and_none_is_old() -> None:
    """HMAC-SHA1 is not: ssh offers it."""
    for kind, names in offers().items():
        assert set(names) <= set(supported(kind))
        others = [name for name in names if not name.startswith("hmac-sha1")]
        assert not [name for name in others if any(old in name for old in OLD) or name == "ssh-rsa"]


@pytest.mark.parametrize("aes", [True, False])
def test_aes_comes_first_where_the_cpu_has_it(aes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "cpu_has_aes", lambda: aes)
    assert ("gcm" in algorithms.cipher_offer(OURS)[0]) is aes
    assert {"aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"} <= set(algorithms.cipher_offer(OURS))


def test_types_of_known_keys_come_first_and_the_others_stay() -> None:
    offer = algorithms.host_key_offer(OURS, ("rsa-sha2-512", "ssh-rsa"), certificates=False)
    assert offer[0] == "rsa-sha2-512"
    assert "ssh-rsa" not in offer
    assert "ssh-ed25519" in offer
    assert not [name for name in offer if "cert" in name]
    assert "cert" in algorithms.host_key_offer(OURS, (), certificates=True)[0]


def test_a_configured_list_replaces_the_default() -> None:
    chosen = replace(OURS, cipher=("aes256-ctr",), host_key=("ssh-rsa", "ssh-rsa-cert-v01@openssh.com"))
    assert algorithms.cipher_offer(chosen) == ["aes256-ctr"]
    assert algorithms.host_key_offer(chosen, (), certificates=False) == ["ssh-rsa"]
    assert algorithms.host_key_offer(chosen, (), certificates=True) == ["ssh-rsa-cert-v01@openssh.com", "ssh-rsa"]
    assert "ssh-rsa" in algorithms.signature_offer(chosen)


def test_unknown_names_are_found() -> None:
    assert algorithms.unknown(replace(OURS, mac=("hmac-sha2-256", "rot13"))) == ("mac: rot13",)


def test_the_yaml_to_paste_keeps_what_the_file_names() -> None:
    given = Algorithms(cipher=("a", "b"), kex=(), mac=("c",), host_key=())
    assert algorithms.yaml(given, kex=["d"]) == "algorithms: {cipher: [a, b], kex: [d], mac: [c]}"


def test_compression_comes_first_or_not_at_all() -> None:
    assert algorithms.compression_offer(compress=True) == ["zlib@openssh.com", "none"]
    assert algorithms.compression_offer(compress=False) == ["none"]


def test_asyncssh_takes_the_whole_offer() -> None:
    names = offers()
    asyncssh.SSHClientConnectionOptions(
        kex_algs=names["kex"],
        encryption_algs=names["cipher"],
        mac_algs=names["mac"],
        server_host_key_algs=names["hostKey"],
    )
