"""Source and destination rules: what they permit and refuse, and their error messages."""

from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.core.observed import ClientInfo
from reconciler.core.rules.access import (
    DestinationRules,
    SourceRules,
    check_destination_rule,
    check_source_rule,
    read_host,
)
from reconciler.core.rules.admission import forbids
from reconciler.core.rules.origin import UNIX
from reconciler.core.secret import FromFile
from reconciler.core.spec import FarTcp, SocksUser
from unit.build import local, origin, socks


def sources(*allow: str, deny: tuple[str, ...] = ()) -> SourceRules:
    return SourceRules.parse(allow, deny)


def places(*allow: str, deny: tuple[str, ...] = ()) -> DestinationRules:
    return DestinationRules.parse(allow, deny)


FACES_OF_10_1_2_3 = (
    "::ffff:10.1.2.3",
    "::ffff:a01:203",
    "::10.1.2.3",
    "::ffff:0:10.1.2.3",
    "64:ff9b::10.1.2.3",
    "64:ff9b:1::10.1.2.3",
    "64:ff9b:1:a01:2:300::",
    "64:ff9b:1:ff0a:1:203::",
    "64:ff9b:1:ffff:a:102:300:0",
    "2002:a01:203::1",
    "2001:0:5ef5:79fb:0:0:f5fe:fdfc",
    "2001:db8::5efe:10.1.2.3",
    "2001:db8::200:5efe:10.1.2.3",
)


def complaint(check: Callable[[str], None], text: str) -> str:
    """What the check says about this rule; "" for nothing."""
    try:
        check(text)
    except ValueError as error:
        return str(error)
    return ""


# --- sources ---------------------------------------------------------------------------------------------------


def test_without_rules_every_client_may_connect() -> None:
    assert sources().permits(origin("203.0.113.9"))
    assert sources().permits(origin("2001:db8::1"))


def test_an_allow_list_refuses_every_other_client() -> None:
    rules = sources("127.0.0.0/8", "2001:db8::/32")
    assert rules.permits(origin("127.9.9.9"))
    assert rules.permits(origin("2001:db8::1"))
    assert not rules.permits(origin("10.0.0.1"))
    assert not rules.permits(origin("::1"))


def test_deny_overrides_allow_for_a_source() -> None:
    rules = sources("10.0.0.0/8", deny=("10.1.0.0/16", "10.2.3.4"))
    assert rules.permits(origin("10.0.0.1"))
    assert not rules.permits(origin("10.1.0.1"))
    assert not rules.permits(origin("10.2.3.4"))


def test_a_deny_list_alone_permits_every_other_client() -> None:
    assert sources(deny=("10.0.0.0/8",)).permits(origin("192.0.2.1"))


def test_an_ipv4_mapped_client_is_matched_as_ipv4() -> None:
    assert sources("127.0.0.0/8").permits(origin("::ffff:127.0.0.1"))
    assert not sources(deny=("10.0.0.0/8",)).permits(origin("::ffff:10.0.0.1"))
    assert not sources(deny=("::ffff:10.0.0.0/104",)).permits(origin("10.0.0.1"))


def test_source_rules_do_not_apply_to_unix_socket_clients() -> None:
    assert sources("10.0.0.0/8", deny=("0.0.0.0/0", "::/0")).permits(UNIX)


@pytest.mark.parametrize("text", ["10.0.0.0/8", "192.0.2.7", "0.0.0.0/0", "::/0", "2001:db8::/32", "::1", "fe80::/10"])
def test_addresses_and_networks_are_source_rules(text: str) -> None:
    check_source_rule(text)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("localhost", "expected a form such as 10.0.0.0/8, 192.0.2.7"),
        ("", "expected a form such as 10.0.0.0/8"),
        ("10.0.0", "expected a form such as 10.0.0.0/8"),
        ("10.0.0.1/8", "write 10.0.0.0/8 for the network, or 10.0.0.1 for the host"),
        ("10.0.0.0/33", "at most /32"),
        ("::/129", "at most /128"),
        ("10.0.0.0/255.0.0.0", "expected a form such as 10.0.0.0/8"),
        ("10.0.0.0/", "expected a form such as 10.0.0.0/8"),
        ("010.0.0.1", "expected a form such as 10.0.0.0/8"),
        ("[::1]", "2001:db8::/32"),
        ("fe80::1%eth0", "2001:db8::/32"),
        ("42", "expected a form such as 10.0.0.0/8"),
    ],
)
def test_the_error_of_a_bad_source_rule_names_the_expected_form(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=r"write|expected") as caught:
        check_source_rule(text)
    assert advice in str(caught.value)
    assert repr(text) in str(caught.value)


# --- destinations ----------------------------------------------------------------------------------------------


def test_without_rules_every_other_destination_is_permitted() -> None:
    assert places().permits("anything.example", 1)
    assert places().permits("127.0.0.1", 65535)


def test_a_name_is_permitted_on_its_port_and_no_other() -> None:
    rules = places("db.internal:5432")
    assert rules.permits("db.internal", 5432)
    assert not rules.permits("db.internal", 5433)
    assert not rules.permits("xdb.internal", 5432)


@pytest.mark.parametrize("name", ["DB.Internal", "db.internal.", "DB.INTERNAL."])
def test_names_are_compared_without_case_and_final_dot(name: str) -> None:
    assert places("db.internal:5432").permits(name, 5432)
    assert places("Db.Internal.:5432").permits(name, 5432)
    assert not places(deny=("db.internal:*",)).permits(name, 5432)


def test_a_suffix_covers_every_name_below_it_and_not_itself() -> None:
    rules = places("*.internal:443")
    assert rules.permits("a.internal", 443)
    assert rules.permits("a.b.Internal.", 443)
    assert not rules.permits("internal", 443)
    assert not rules.permits("notinternal", 443)
    assert not rules.permits("internal.example.com", 443)


def test_ports_may_be_a_list_of_ports_and_ranges() -> None:
    rules = places("a.internal:80,443,8000-8100")
    assert [port for port in (80, 81, 443, 7999, 8000, 8050, 8100, 8101) if rules.permits("a.internal", port)] == [
        80,
        443,
        8000,
        8050,
        8100,
    ]


def test_a_star_matches_every_name_and_address() -> None:
    rules = places("*:443")
    assert rules.permits("example.com", 443)
    assert rules.permits("10.0.0.1", 443)
    assert rules.permits("::1", 443)
    assert not rules.permits("example.com", 80)


def test_addresses_are_matched_by_addresses_and_networks() -> None:
    rules = places("10.0.0.0/8:*", "[2001:db8::/32]:443", "[::1]:80", "192.0.2.7:22")
    assert rules.permits("10.255.0.1", 1)
    assert rules.permits("2001:0DB8:0::5", 443)
    assert rules.permits("::1", 80)
    assert rules.permits("192.0.2.7", 22)
    assert not rules.permits("11.0.0.1", 1)
    assert not rules.permits("2001:db9::5", 443)


def test_deny_wins() -> None:
    rules = places("*.internal:*", deny=("secret.internal:*", "*:25"))
    assert rules.permits("app.internal", 80)
    assert not rules.permits("secret.internal", 80)
    assert not rules.permits("app.internal", 25)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "0x7f.1",
        "0x7f000001",
        "0X7F.0.0.1",
        "2130706433",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.1.",
        "127.1.",
        "0",
        "0.0.0.0",
        "::ffff:127.0.0.1",
        "::FFFF:7f00:1",
        "::ffff:0.0.0.0",
        "64:ff9b::7f00:1",
        "127.0.0.1%lo",
    ],
)
def test_a_deny_covers_every_notation_of_an_address(host: str) -> None:
    assert not places("*:*", deny=("127.0.0.0/8:*",)).permits(host, 80)
    assert not places(deny=("127.0.0.1:80",)).permits(host, 80)


@pytest.mark.parametrize("host", ["::1", "::", "0:0:0:0:0:0:0:1", "0000::", "::0001"])
def test_a_deny_covers_every_notation_of_the_ipv6_loopback(host: str) -> None:
    assert not places("*:*", deny=("[::1]:*",)).permits(host, 80)


def test_the_unspecified_address_is_denied_by_its_own_network_too() -> None:
    assert not places(deny=("0.0.0.0/8:*",)).permits("0.0.0.0", 80)
    assert places(deny=("0.0.0.0/8:*",)).permits("127.0.0.1", 80)


def test_a_rule_in_ipv4_mapped_form_means_the_ipv4_addresses() -> None:
    assert not places(deny=("[::ffff:10.0.0.0/104]:*",)).permits("10.1.2.3", 80)
    assert places("[::ffff:10.0.0.1]:*").permits("10.0.0.1", 80)


@pytest.mark.parametrize("host", FACES_OF_10_1_2_3)
def test_a_denied_ipv4_address_is_denied_inside_an_ipv6_address_too(host: str) -> None:
    assert not places("*:*", deny=("10.1.2.3:*",)).permits(host, 80)
    assert not places(deny=("10.0.0.0/8:80",)).permits(host, 80)
    assert places(deny=("10.1.2.4:*",)).permits(host, 80)


def test_a_deny_by_address_refuses_names_that_no_allow_rule_names() -> None:
    rules = places("*:*", "*.corp.example:443", deny=("169.254.169.254:*",))
    assert rules.permits("198.51.100.1", 80)
    assert not rules.permits("metadata.attacker.example", 80)
    assert rules.permits("wiki.corp.example", 443)
    assert not rules.permits("wiki.corp.example", 80)
    assert not places(deny=("10.0.0.0/8:*",)).permits("db.internal", 5432)


def test_a_deny_by_address_does_not_affect_names_on_other_ports() -> None:
    rules = places(deny=("10.0.0.0/8:22",))
    assert rules.permits("db.internal", 5432)
    assert not rules.permits("db.internal", 22)


def test_rules_that_refuse_every_name_are_detected() -> None:
    assert places(deny=("10.0.0.0/8:*",)).refuses_names
    assert places("*:*", deny=("10.0.0.0/8:*",)).refuses_names
    assert not places("*.internal:*", deny=("10.0.0.0/8:*",)).refuses_names
    assert not places(deny=("db.internal:*",)).refuses_names
    assert not places().refuses_names


def test_a_refusal_names_the_rule() -> None:
    rules = places("*.internal:443", "10.0.0.0/8:*", deny=("10.0.0.1:*", "db.internal:*"))
    assert rules.refusal("a.internal", 443) == ""
    assert rules.refusal("10.0.0.1", 80) == "10.0.0.1:80 is denied by 10.0.0.1:*"
    assert "db.internal:*" in rules.refusal("DB.internal", 443)
    assert rules.refusal("192.0.2.1", 80) == "192.0.2.1:80 is not among the allowed destinations"
    assert "the SSH server resolves them" in rules.refusal("a.example", 443)
    assert "no rule can match it" in rules.refusal("127.1", 80)
    assert "name it in `allowDestinations`" in places(deny=("10.0.0.1:*",)).refusal("db.internal", 80)


@pytest.mark.parametrize("host", ["", ".", "a..b", "a b", "a\nb", "K.internal", "\u212a.internal", "bücher.de", "a/b"])
def test_an_invalid_host_is_refused_if_there_are_rules(host: str) -> None:
    permitted = places("*:*").permits(host, 80)
    assert permitted is (host == "K.internal")  # the ASCII letter; its lookalike, the Kelvin sign, is none


@pytest.mark.parametrize(
    "text",
    [
        "db.internal:443",
        "*:*",
        "*.internal:*",
        "10.0.0.0/8:*",
        "127.0.0.1:8000-8100",
        "[::1]:80,443",
        "[2001:db8::/32]:*",
        "localhost:1-65535",
        "_x.example:80, 443",
        "1password.example:443",
    ],
)
def test_these_are_destination_rules(text: str) -> None:
    check_destination_rule(text)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "expected a form such as db.internal:443"),
        ("db.internal", "expected a form such as db.internal:443"),
        ("db.internal:", "expected a form such as 443, 8000-8100"),
        ("db.internal:0", "no valid ports"),
        ("db.internal:65536", "no valid ports"),
        ("db.internal:9-8", "no valid ports"),
        ("db.internal:http", "no valid ports"),
        ("db.internal:-1", "no valid ports"),
        ("db.internal:80,", "no valid ports"),
        ("db.internal:²", "no valid ports"),
        ("db.internal:99999999999", "no valid ports"),
        (":443", "no valid host"),
        ("::1:443", "[2001:db8::/32]"),
        ("[::1]", "[2001:db8::/32]"),
        ("2001:db8::/32", "[2001:db8::/32]"),
        ("[10.0.0.0/8]:443", "no valid host"),
        ("[db.internal]:443", "no valid host"),
        ("10.0.0.1/8:443", "write 10.0.0.0/8 for the network"),
        ("127.1:443", "in full such as 127.0.0.1"),
        ("0x7f000001:443", "in full such as 127.0.0.1"),
        ("*internal:443", "expected a form such as *.internal:443"),
        ("db.*:443", "expected a form such as *.internal:443"),
        ("*.*.internal:443", "expected a form such as *.internal:443"),
        ("*.:443", "expected a form such as *.internal:443"),
        ("*.10.0.0.1:443", "expected a form such as *.internal:443"),
        ("bücher.example:443", "xn--"),
        ("https://a.example:443", "expected a form such as db.internal:443"),
    ],
)
def test_the_error_of_a_bad_destination_rule_names_the_expected_form(text: str, advice: str) -> None:
    with pytest.raises(ValueError, match=r"write|expected") as caught:
        check_destination_rule(text)
    assert advice in str(caught.value)


@given(st.text(max_size=30) | st.from_regex(r"[0-9a-fx*\[\]/.:,%-]{0,25}", fullmatch=True))
def test_any_text_is_a_rule_or_raises_an_error_with_a_message(text: str) -> None:
    for sentence in (complaint(check_source_rule, text), complaint(check_destination_rule, text)):
        assert not sentence or "write" in sentence or "expected" in sentence


def _written(number: int, how: str) -> str:
    match how:
        case "hex":
            return "0x" + number.to_bytes().hex()
        case "octal":
            return f"0{number:o}"
        case _:
            return str(number)


@given(st.lists(st.sampled_from(["hex", "octal", "decimal"]), min_size=4, max_size=4), st.integers(0, 2**32 - 1))
@example(["decimal"] * 4, 0x7F000001)
def test_a_deny_holds_for_every_spelling_of_an_ipv4_address(how: list[str], number: int) -> None:
    octets = number.to_bytes(4)
    address = str(IPv4Address(number))
    rules = places("*:*", deny=(f"{address}:*",))
    assert not rules.permits(".".join(map(_written, octets, how)), 80)
    assert not rules.permits(str(number), 80)
    assert not rules.permits(hex(number), 80)


@given(st.text(max_size=40))
def test_reading_a_normalised_host_again_does_not_change_it(text: str) -> None:
    once = read_host(text)
    if once is not None:
        assert read_host(str(once)) == once


# --- a tunnel's clients ------------------------------------------------------------------------------------------

ANN, BOB = (SocksUser(name, FromFile(f"/run/{name}")) for name in ("ann", "bob"))
DB = FarTcp("prod", "db.internal", 443)


def test_a_live_client_may_stay_if_it_could_connect_now() -> None:
    assert forbids(local(), ClientInfo(origin("10.0.0.7"))) == ""
    assert forbids(local(allow=("10.0.0.0/8",)), ClientInfo(origin("10.0.0.7"))) == ""
    assert forbids(local(allow=("192.0.2.0/24",)), ClientInfo(UNIX)) == "", "a unix socket's"
    assert forbids(socks(users=(ANN, BOB)), ClientInfo(origin("10.0.0.7"), DB, BOB)) == ""
    assert forbids(socks(), ClientInfo(origin("10.0.0.7"), DB, BOB)) == "", "nobody has to log in any more"


def test_the_reason_why_a_live_client_is_forbidden() -> None:
    client_info = ClientInfo(origin("10.0.0.7"), DB, ANN)
    for tunnel, why in (
        (socks(deny=("10.0.0.0/8",)), "source 10.0.0.7 is no longer allowed"),
        (socks(deny_destinations=("*.internal:*",)), "db.internal:443 is denied by *.internal:*"),
        (socks(allow_destinations=("*.internal:80",)), "db.internal:443 is not among the allowed destinations"),
        (socks(users=(BOB,)), "its user is no longer allowed"),
        (socks(users=(SocksUser("ann", FromFile("/run/another")),)), "its user is no longer allowed"),
    ):
        assert forbids(tunnel, client_info) == why
    assert forbids(socks(users=(ANN,)), ClientInfo(origin("10.0.0.7"), DB)), "who never logged in"
