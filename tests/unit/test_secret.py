"""Secrets are never printed."""

import copy
import traceback

import pytest

from reconciler.core.secret import FromEnv, FromFile, Inline, Secret
from reconciler.core.spec import SocksUser
from unit.build import POLICY, desired, local, target


def test_a_secret_does_not_show_in_any_text_made_of_it() -> None:
    secret = Secret("hunter2")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>30}", repr([secret]), repr({secret: 1})]
    assert not [text for text in shown if "hunter2" in text]
    assert secret.reveal() == "hunter2"


def test_a_spec_that_holds_a_secret_does_not_show_it() -> None:
    users = (SocksUser("u", Inline(Secret("hunter2"))),)
    asked = desired(target(), local(users=users))
    assert "hunter2" not in repr(asked)
    assert "hunter2" not in str(asked.tunnels["prod/db"].policy.users)
    assert POLICY.users != users


def test_a_traceback_does_not_show_a_secret() -> None:
    with pytest.raises(ValueError, match="Secret") as caught:
        raise ValueError(Secret("hunter2"))
    told = "".join(traceback.format_exception_only(caught.value))
    assert "Secret(***)" in told
    assert "hunter2" not in told


def test_secrets_with_equal_text_are_equal() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert hash(Secret("a")) == hash(Secret("a"))
    assert len({Secret("a"), Secret("a"), Secret("b")}) == 2


@pytest.mark.parametrize("text", ["", "pässwörd", "\ud800", "a\x00b"])
def test_any_text_can_be_a_secret(text: str) -> None:
    assert Secret(text).reveal() == text
    assert Secret(text) == Secret(text)


def test_a_source_shows_its_place_and_not_its_content() -> None:
    assert str(Inline(Secret("hunter2"))) == "a literal in the file"
    assert str(FromFile("/run/secrets/pp")) == "/run/secrets/pp"
    assert str(FromEnv("SSH_KEY")) == "$SSH_KEY"


def test_a_copy_is_as_secret_as_the_original() -> None:
    secret = Secret("hunter2")
    for twin in (copy.copy(secret), copy.deepcopy(secret)):
        assert twin == secret
        assert repr(twin) == "Secret(***)"
    assert copy.copy(secret).reveal() == "hunter2"
