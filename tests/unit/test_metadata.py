"""Link-local and metadata destinations: refused unless a rule names them, in every notation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.rules import metadata
from reconciler.core.rules.access import DestinationRules


def places(*allow: str, deny: tuple[str, ...] = ()) -> DestinationRules:
    return DestinationRules.parse(allow, deny)


SPECIAL = (
    *("169.254.169.254", "169.254.0.1", "169.254.170.2", "169.254.255.255", "100.100.100.200", "168.63.129.16"),
    *("192.0.0.192", "fe80::1", "febf::1", "fe80::a9fe:a9fe", "fd00:ec2::254", "fd00:ec2:0:0::23", "fd20:ce::254"),
    *("fd00:c1::a9fe:a9fe", "fd00:42::42", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe"),
    *("64:ff9b::100.100.100.200", "2002:a9fe:a9fe::", "::169.254.169.254", "64:ff9b:1::a9fe:a9fe"),
    *(
        "metadata.google.internal",
        "METADATA.google.internal.",
        "metadata",
        "instance-data.ec2.internal",
        "metadata.goog",
    ),
)


@pytest.mark.parametrize("host", SPECIAL)
def test_link_local_and_metadata_destinations_are_refused_unless_they_are_named(host: str) -> None:
    assert "name it in `allowDestinations` to permit it" in places().refusal(host, 80)
    assert not places("*:*", "0.0.0.0/0:*", "[::/0]:*", "*.internal:*", "*.goog:*").permits(host, 80)
    named = f"[{host}]:80" if ":" in host else f"{host}:80"
    assert places("*:*", named).permits(host, 80)
    assert not places("*:*", named).permits(host, 81)
    assert not places("*:*", named, deny=(named,)).permits(host, 80)


@pytest.mark.parametrize(
    ("rule", "host"),
    [
        ("169.254.0.0/16:80", "169.254.169.254"),
        ("169.254.169.0/24:*", "169.254.169.254"),
        ("[::ffff:169.254.0.0/112]:*", "169.254.169.254"),
        ("[fe80::/10]:*", "fe80::1"),
        ("[fd00:ec2::/32]:*", "fd00:ec2::254"),
    ],
)
def test_a_rule_for_a_part_of_the_special_network_names_its_addresses(rule: str, host: str) -> None:
    assert places(rule).permits(host, 80)


@pytest.mark.parametrize(
    ("rule", "host"),
    [
        ("169.254.0.0/15:*", "169.254.169.254"),
        ("168.63.129.0/24:*", "168.63.129.16"),
        ("100.100.100.200/31:*", "100.100.100.200"),
        ("192.0.0.0/24:*", "192.0.0.192"),
        ("[fe80::/9]:*", "fe80::1"),
        ("[fd00::/8]:*", "fd00:ec2::254"),
        ("[64:ff9b::/96]:*", "64:ff9b::a9fe:a9fe"),
        ("[2002::/16]:*", "2002:a9fe:a9fe::"),
        ("*.google.internal:*", "metadata.google.internal"),
    ],
)
def test_a_rule_for_a_wider_network_or_a_suffix_does_not_name_them(rule: str, host: str) -> None:
    assert not places(rule).permits(host, 80)


@pytest.mark.parametrize(
    "host",
    ["169.253.255.255", "169.255.0.0", "100.100.100.201", "fec0::1", "fd00:ec3::254", "64:ff9b::a01:203", "10.0.0.1"],
)
def test_addresses_next_to_the_special_networks_are_permitted(host: str) -> None:
    assert places().permits(host, 80)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("169.254.169.254", "a link-local address"),
        ("169.254.43518", "a link-local address"),
        ("169.16689662", "a link-local address"),
        ("2852039166", "a link-local address"),
        ("0xa9fea9fe", "a link-local address"),
        ("0XA9.0xfe.0xa9.0xfe", "a link-local address"),
        ("0251.0376.0251.0376", "a link-local address"),
        ("0000000000000000000000251.254.169.254", "a link-local address"),
        ("169.254.169.254.", "a link-local address"),
        ("fe80::1%eth0", "a link-local address"),
        ("::ffff:169.254.169.254", "a link-local address"),
        ("FD00:EC2::254", "a cloud metadata service"),
        ("Metadata.Google.Internal.", "a cloud metadata service"),
        ("db.internal", ""),
        ("127.1", ""),
        ("0x", ""),
        ("08.1", ""),
        ("", ""),
        ("9" * 300, ""),
        ("1.2.3.4.5", ""),
        ("256.1", ""),
    ],
)
def test_a_configured_host_is_recognised_in_every_notation(text: str, kind: str) -> None:
    assert metadata.kind_of_text(text) == kind


@given(st.lists(st.sampled_from(["hex", "octal", "decimal"]), min_size=4, max_size=4), st.integers(0, 0xFFFF))
def test_every_spelling_of_a_link_local_address_is_recognised(how: list[str], number: int) -> None:
    octets = (0xA9FE0000 + number).to_bytes(4)
    assert metadata.kind_of_text(".".join(map(_written, octets, how)))
    assert not places().permits(".".join(map(_written, octets, how)), 80)


def _written(number: int, how: str) -> str:
    match how:
        case "hex":
            return "0x" + number.to_bytes().hex()
        case "octal":
            return f"0{number:o}"
        case _:
            return str(number)
