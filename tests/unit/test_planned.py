"""A plan in words: what changed, as the file would say it."""

from __future__ import annotations

import pytest

from reconciler.config.load import load_text
from reconciler.core.spec import Desired
from reconciler.planned import between

LONG = "a sentence that is much longer than what is shown of a value"
BEFORE = {
    "privateKey": "/a",
    "jumpHosts": "[{host: j1, user: u, privateKey: /j}, {host: j2, user: u, privateKey: /j}]",
    "algorithms": "{}",
    "description": f"{LONG} 1",
    "labels": "{}",
    "allow": "[127.0.0.0/8]",
    "health": "{type: tcp}",
}
OF_TARGET = ("privateKey", "jumpHosts", "algorithms")


def desired(fields: dict[str, str]) -> Desired:
    target = "".join(f"    {name}: {fields[name]}\n" for name in OF_TARGET)
    tunnel = "".join(f"        {name}: {value}\n" for name, value in fields.items() if name not in OF_TARGET)
    text = f"targets:\n  prod:\n    host: b\n    user: u\n{target}    tunnels:\n      - local: 5432:db:5432\n{tunnel}"
    loaded = load_text(text)
    assert loaded.valid, loaded.errors
    return loaded.desired


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("privateKey", "/b", "privateKey {file: /a} -> {file: /b}"),
        ("privateKey", "[/a, /b]", "privateKey {file: /a} -> [{file: /a}, {file: /b}]"),
        ("algorithms", "{cipher: [aes128-ctr]}", "algorithms (none) -> {cipher: [aes128-ctr]}"),
        ("labels", "{team: data, tier: '1'}", "labels (none) -> {team: data, tier: '1'}"),
        ("allow", "[]", "allow 127.0.0.0/8 -> (none)"),
        ("health", "{type: tcp, interval: 1m}", "health.interval 30s -> 1m"),
        ("health", "false", "health {type: tcp, interval: 30s, timeout: 5s, ... -> false"),
        ("description", "short", "description a sentence that is much longer than what... -> short"),
        ("description", f"{LONG} 2", "description ...is shown of a value 1 -> ...is shown of a value 2"),
        (
            "jumpHosts",
            "[{host: j1, user: u, privateKey: /j}, {host: j3, user: u, privateKey: /k}]",
            "jumpHosts[1].host j2 -> j3, jumpHosts[1].privateKey {file: /j} -> {file: /k}",
        ),
    ],
)
def test_what_changed_is_said_in_the_words_of_the_file(field: str, value: str, said: str) -> None:
    steps = between(desired(BEFORE), desired(BEFORE | {field: value}))
    why = "the way to reach it changed" if field in OF_TARGET else "its settings changed"
    assert steps[0].why == f"{why}: {said}"
