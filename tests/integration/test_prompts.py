"""What a server asks and says during a login: rounds of prompts, banners, a password that must be changed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from integration.dialling import access, dialled, failure_of, hop, key_login
from reconciler.core.observed import Failure, Phase, Reason
from reconciler.core.secret import Inline, Secret
from reconciler.core.spec import Login, PasswordLogin
from support.endpoints import whole
from support.login_server import LoginServer, Round, Script, Text
from support.tunnels import file, local, running
from support.wait import eventually, free_port

KEYBOARD = "keyboard-interactive"
PASSWORD = PasswordLogin(Inline(Secret("secret")))
LINK = "https://login.example/a/1f2e3d"


def hidden(prompt: Text, *right: str, **fields: Any) -> Round:
    """Return a round with one prompt. The user's terminal does not show its answer."""
    return Round([(prompt, False)], right, **fields)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[LoginServer]:
    async with LoginServer(tmp_path / "login") as server:
        yield server


def logins_of(server: LoginServer, names: str) -> Sequence[Login]:
    kinds: dict[str, Login] = {"key": key_login(server.client_key), "password": PASSWORD}
    return [kinds[name] for name in names.split("+")]


async def logged_in(server: LoginServer, names: str, script: Script) -> str:
    """Log in, and return what the server said at the end."""
    server.script = script
    async with dialled(access(hop(server, logins=tuple(logins_of(server, names))))) as result:
        return result.said


async def refused(server: LoginServer, names: str, script: Script, **options: Any) -> Failure:
    server.script = script
    return await failure_of(access(hop(server, logins=tuple(logins_of(server, names)))), **options)


def by_keyboard(*rounds: Round, first: Sequence[str] = (), banners: Sequence[str] = ()) -> Script:
    """A login with one keyboard-interactive method, after the methods `first`."""
    return Script((*first, KEYBOARD), [rounds], first=banners)


# --- rounds that are answered ------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["key", "key+password"])
@pytest.mark.parametrize(
    "rounds",
    [(), (Round(),), (Round(), Round(instruction="approve the login", name="Push"), Round())],
    ids=["no round", "one", "three"],
)
async def test_rounds_without_prompts_are_answered(server: LoginServer, names: str, rounds: Sequence[Round]) -> None:
    await logged_in(server, names, by_keyboard(*rounds, first=("publickey",)))


@pytest.mark.parametrize(
    "prompt",
    [
        "Password: ",
        "Password for token01 (not the PIN): ",
        "",
        "Contraseña: ".encode("latin-1"),
        "Пароль: ".encode("utf-16-le"),
        "סיסמה: ".encode("utf-16-be"),
        "密码: ".encode("utf-16"),
        "Passwort für tester: ".encode()[:-10],
        b"Pass\xff\xfe\xc3: ",
        b"Password: \0",
    ],
    ids=["plain", "words for codes", "empty", "latin-1", "utf-16-le", "utf-16-be", "utf-16", "cut", "invalid", "nul"],
)
async def test_the_password_answers_the_one_hidden_prompt(server: LoginServer, prompt: Text) -> None:
    said: dict[str, Text] = {"name": prompt, "instruction": prompt, "lang": b"\xe9"}
    script = by_keyboard(Round(), hidden(prompt, "secret", **said), Round())
    await logged_in(server, "password", script)
    assert script.answers == ["secret"]


async def test_each_method_gets_its_credential(server: LoginServer) -> None:
    password = hidden("Password: ", "secret")
    await logged_in(server, "key+password", Script(("publickey", "password", KEYBOARD), [[password]]))
    await logged_in(server, "password+key", Script((KEYBOARD, "publickey", KEYBOARD), [[password], [Round()]]))
    await logged_in(server, "key", Script((KEYBOARD, "publickey"), [[Round()]]))


async def test_the_message_after_the_last_credential_is_kept(server: LoginServer) -> None:
    end = Round(instruction="Your password expires in 3 days.")
    script = by_keyboard(hidden("Password: ", "secret", instruction="Welcome"), end, banners=["Be warned"])
    assert await logged_in(server, "password", script) == "`Your password expires in 3 days.`"


# --- rounds that no program can answer ---------------------------------------------------------------------------

CODE = hidden("Code: ", "123456")
ASKED = hidden("Password: ", "secret")


@pytest.mark.parametrize(
    ("names", "script", "what", "advice"),
    [
        ("password", by_keyboard(ASKED, CODE), "asks tester `Code:` after a password, as for a one-time code", ""),
        (
            "password",
            Script((KEYBOARD, KEYBOARD), [[ASKED], [CODE]]),
            "asks tester `Code:` after a password, as for a one-time code",
            "",
        ),
        (
            "password",
            by_keyboard(CODE, first=("password",)),
            "asks tester `Code:` after a password, as for a one-time code",
            "",
        ),
        (
            "password",
            by_keyboard(ASKED, hidden("Password: ", "123456")),
            "asks tester `Password:` again after a password",
            "correct `password`, or, if a one-time code is asked for, ",
        ),
        (
            "password",
            by_keyboard(Round([("Password: ", False), ("Code: ", False)])),
            "asks tester `Password:` and `Code:` at once, as for a one-time code",
            "",
        ),
        ("password", by_keyboard(Round([("Option (1-3): ", True)])), "asks tester `Option (1-3):`, which no", ""),
        (
            "password",
            by_keyboard(CODE),
            "refused the login of tester with a password, which answered `Code:`",
            "correct `user` or `password`; a one-time code cannot be given",
        ),
        (
            "key",
            by_keyboard(CODE, first=("publickey",)),
            "asks tester `Code:` after key",
            "add `password`, or, if a one",
        ),
    ],
    ids=[
        "code",
        "second method",
        "after the password",
        "again",
        "both at once",
        "visible",
        "only code",
        "key and code",
    ],
)
async def test_a_prompt_without_an_answer_is_named(
    server: LoginServer, names: str, script: Script, what: str, advice: str
) -> None:
    script.answers.clear()
    failure = await refused(server, names, script)
    assert failure.reason is Reason.AUTH
    assert what in failure.what
    assert failure.advice.startswith(advice or "allow this user to log in without it")
    assert "123456" not in failure.message
    assert set(script.answers) <= {"secret"}


async def test_a_long_prompt_keeps_its_end(server: LoginServer) -> None:
    """What PAM says comes before its question, in one text."""
    asked = hidden("You must change your password (administrator enforced). " * 5 + "\nCurrent password: ", "secret")
    failure = await refused(server, "password", by_keyboard(ASKED, asked))
    assert "asks tester `You must change your password " in failure.what
    assert "Current password:` after a password, as for a one-time code or a new password" in failure.what


async def test_a_prompt_does_not_show_the_password_or_control_characters(server: LoginServer) -> None:
    echo = hidden("\x1b[2J\u202esecret, now the code: ", "1", instruction="you sent secret")
    failure = await refused(server, "password", by_keyboard(ASKED, echo))
    assert "secret" not in failure.message
    assert failure.message.isprintable()
    assert "***, now the code:`" in failure.message
    assert "it says `you sent ***`" in failure.message


@pytest.mark.parametrize("text", ["Mot de passe expiré", "Mot de passe expiré".encode("latin-1"), "", b"\xff\xfe"])
async def test_a_password_that_must_be_changed_is_named(server: LoginServer, text: Text) -> None:
    failure = await refused(server, "password", Script(("password",), must_change=text or b"\0"))
    assert failure.reason is Reason.AUTH
    assert "wants tester to change the password (`" in failure.what
    assert failure.advice == "change it with ssh, then correct `password`"
    assert ("Mot de passe expiré" in failure.what) is (len(text) > 2)


# --- banners -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("banner", "shown"),
    [
        ("Your account has expired; contact admin@example", "Your account has expired; contact admin@example"),
        ("*****\n* Maintenance \n\n* until 6:00 *\n*****\n", "* Maintenance * until 6:00 *"),
        ("Compte expiré".encode("latin-1"), "Compte expiré"),
        ("Konto läuft ab".encode("utf-16"), "Konto läuft ab"),
        ("\x1b]0;title\x07\x1b[31mred\x1b[0m\r\nnext\u202e", "\\x1b[31mred\\x1b[0m next\\u202e"),
    ],
    ids=["plain", "frame", "latin-1", "utf-16", "escapes"],
)
@pytest.mark.parametrize("closes", [False, True])
async def test_a_banner_before_a_refusal_is_quoted(server: LoginServer, banner: Text, shown: str, closes: bool) -> None:
    script = Script(("publickey" if closes else "password",), password="other", closes=closes, lang=b"\xe9")
    script.first, script.last = ["Authorized users only"], [banner]
    failure = await refused(server, "key" if closes else "password", script)
    assert failure.reason is (Reason.SERVER_BUSY if closes else Reason.AUTH)
    assert "; it says `" in failure.what
    assert shown in failure.what
    assert "Authorized" not in failure.what, "what came before the credential does not explain the refusal"
    assert failure.advice.startswith("act on that, or ")
    assert failure.message.isprintable()


async def test_long_banners_are_cut_and_keep_their_link(server: LoginServer) -> None:
    banner = "lorem ipsum " * 2000 + f"\nvisit {LINK} now\n" + "dolor sit " * 20
    failure = await refused(
        server, "key", Script(("publickey",), first=[banner[20_000:], *["x\n" * 20_000] * 20], closes=True)
    )
    assert len(failure.message) < 1000
    assert LINK in failure.what


async def test_a_login_that_waits_for_a_visit_shows_the_link(server: LoginServer) -> None:
    script = Script(("publickey",), first=[f"# To authenticate, visit: {LINK}\n"], hangs=True)
    failure = await refused(server, "key", script, connect_timeout=0.5)
    assert failure.reason is Reason.TIMEOUT
    assert f"did not finish the login within 0.5 s; it says `# To authenticate, visit: {LINK}`" in failure.what
    assert "`connectTimeout`" in failure.advice


async def test_thousands_of_texts_and_prompts_cost_little(server: LoginServer) -> None:
    script = by_keyboard(Round([("", False)] * 8000))
    script.first = [f"text {number}" for number in range(3000)]
    failure = await refused(server, "password", script)
    assert "asks tester `(an empty prompt)` and `(an empty prompt)` and `(an empty prompt)` at once" in failure.what
    assert "it says `text 0 text 1 " in failure.what


# --- the program -------------------------------------------------------------------------------------------------


async def test_the_link_is_logged_while_the_login_waits(
    server: LoginServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server.script = Script(("publickey",), first=[f"visit: {LINK}"], hangs=True)
    async with running(tmp_path, file(server, local("db", free_port(), 1))) as it:
        await eventually(lambda: f"target server: {server.host}:{server.port} says `visit: {LINK}`" in caplog.text)
        verdict = it.verdict("server/db")
        assert verdict is not None
        assert verdict.phase is Phase.CONNECTING


async def test_status_and_diagnose_show_what_the_server_says(server: LoginServer, tmp_path: Path) -> None:
    server.script = Script(("publickey",), last=["Password expires\nin 3 days"])
    said = "the server says `Password expires in 3 days`"
    async with whole(tmp_path, file(server, local("db", free_port(), 1))) as it:
        await it.tunnels.until("server/db", Phase.UP)
        [target] = (await it.http.get("/api/v1/status"))["targets"]
        assert target["message"] == said
        steps = (await it.control.get("/api/v1/diagnose", id="server/db"))["steps"]
        assert said in next(step["detail"] for step in steps if step["step"] == "server: log in")


async def test_diagnose_names_a_login_that_takes_long(
    server: LoginServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.runtime.diagnose.WITHIN", 1.0)
    server.script = Script(("publickey",), hangs=True)
    async with whole(tmp_path, file(server, local("db", free_port(), 1))) as it:
        await it.tunnels.until("server/db", Phase.CONNECTING)
        steps = (await it.control.get("/api/v1/diagnose", id="server/db"))["steps"]
        assert [step["step"] for step in steps if step["ok"]][-2:] == ["server: connect", "server: host key"]
        wrong = steps[-1]
        assert wrong["step"] == "server: log in"
        assert "did not finish the login within " in wrong["detail"]
        assert "`connectTimeout` is 15 s" in wrong["detail"]
        assert wrong["fix"].startswith("raise `connectTimeout`")
