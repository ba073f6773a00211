"""The policy: what a file may do is judged by the effective values, in whatever form the file writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from reconciler.cli.main import main
from reconciler.config.load import Config, Loaded
from reconciler.config.options import Options
from reconciler.config.policy_file import PolicyFile
from reconciler.config.problem import POLICY_CODES, PolicyCode
from reconciler.core.rules.file_policy import Glob, PermittedPlaces, address_rule

NOW = 1_780_000_000.0  # 2026-05-28T20:26:40Z
OPTIONS = Options(user="me", now=NOW, allow_commands=True)
RULE = {
    "files": ["a.yaml"],
    "targets": {"define": ["a-*"], "use": ["bastion"]},
    "servers": ["*.a.example:22", "10.1.0.0/16:22,2222"],
    "local": {
        "listen": ["127.0.0.1:0,15000-15049", "127.0.0.1:15050-15099", "[::1]:15000-15099", "/run/a/*.sock"],
        "destinations": ["*.a.internal:5432", "10.2.0.0/16:1-1024", "/run/far/*"],
    },
    "remote": {"listen": ["127.0.0.1:9000-9009"], "destinations": ["localhost:8080", "/run/a/*.sock"]},
    "socks": {"listen": ["127.0.0.1:1080"], "destinations": ["*.a.internal:443,8443", "10.2.0.0/16:*", "localhost:80"]},
    "paths": ["/run/secrets/a/*", "keys/*.pem"],
    "variables": ["A_*"],
}
BASE = (
    "targets: {bastion: {host: b, agent: true}, a-own: {host: x.a.example, agent: true}, other: {host: o, agent: true}}"
)


def load(directory: Path, text: str, name: str = "a.yaml", /, **changes: object) -> Loaded:
    """Load a base file without limits, and a file with this text that the rule judges."""
    everything = {
        "files": ["0.yaml"],
        "targets": {"define": ["*"]},
        "servers": ["*:*"],
        "variables": ["*"],
        "paths": ["/**"],
    }
    rule = {key: value for key, value in {**RULE, **changes}.items() if value is not None}
    (directory / "0.yaml").write_text(BASE)
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(text)
    (directory / "policy.yaml").write_text(json.dumps({"rules": [everything, rule]}))
    environ = {"HOME": "/home/me", "A_HOST": "db.a.internal", "EVIL": "db.evil.example", "A_EVIL": "db.evil.example"}
    policy = PolicyFile(str(directory / "policy.yaml"), environ)
    return Config([directory / "0.yaml", directory / name], environ=environ, options=OPTIONS, policy=policy).reload()


def codes(loaded: Loaded) -> list[str]:
    return [str(problem.code) for problem in loaded.errors]


def tunnel(fields: str) -> str:
    return f"targets: {{a-own: {{tunnels: [{{{fields}}}]}}}}"


def target(fields: str, name: str = "a-new") -> str:
    return f"targets: {{{name}: {{host: x.a.example, {fields}}}}}"


PERMITTED = [
    tunnel("local: '15000:db.a.internal:5432'"),
    tunnel("local: '15000:10.2.3.4:443'"),
    tunnel("local: '15000:DB.A.internal.:5432'"),
    tunnel("type: local, localPort: 0, remoteHost: db.a.internal, remotePort: 5432"),
    tunnel("type: local, localPort: 15000-15099, remoteHost: db.a.internal, remotePort: 5432"),
    tunnel("type: local, localHost: localhost, localPort: 15099, remoteHost: db.a.internal, remotePort: 5432"),
    tunnel("type: local, localSocket: /run/a/x.sock, remoteSocket: /run/far/y"),
    tunnel("type: local, localPort: 15000, remoteHost: '${A_HOST}', remotePort: 5432"),
    tunnel("type: local, localPort: 15000, remoteHost: '::ffff:10.2.0.1', remotePort: 80"),
    tunnel("remote: '9000:localhost:8080'"),
    tunnel("remote: '9000:127.0.0.1:8080'"),
    tunnel("type: remote, remotePort: 9001, localSocket: /run/a/x.sock"),
    tunnel("socks: 1080, allowDestinations: ['x.a.internal:443', '*.b.a.internal:443,8443', '10.2.1.0/24:*']"),
    tunnel("socks: 1080, allowDestinations: ['127.0.0.1:80', 'localhost:80']"),
    target("agent: false"),
    target("hosts: [10.1.2.3, 'y.a.example:22'], privateKey: /run/secrets/a/key").replace("host: x.a.example, ", ""),
    target("privateKey: keys/one.pem, jumpHost: bastion"),
    target("password: {env: A_PASSWORD}, jumpHosts: [bastion, {host: 10.1.1.1, port: 2222}, a-own]"),
    "{targets: {}, x-note: '${EVIL}', x-allow: [policy-listen]}",
]

REFUSED = {
    PolicyCode.TARGET: [
        target("", "b-new"),
        "targets: {other: {tunnels: []}}",
        "targets: {other: {tunnels: [{local: '15000:db.a.internal:5432'}]}}",
        target("jumpHost: other"),
        "{defaults: {target: {jumpHosts: [other]}}, targets: {a-new: {host: x.a.example}}}",
        target("jumpHosts: [{host: y.a.example}, other]"),
    ],
    PolicyCode.SERVER: [
        target("").replace("x.a.example", "a.example"),
        target("").replace("x.a.example", "xa.example"),
        target("").replace("x.a.example", "x.a.example.evil"),
        target("port: 2222"),
        target("").replace("host: x.a.example", "hosts: [x.a.example, '[::1]:22']"),
        target("").replace("x.a.example", "10.2.0.1"),
        target("").replace("x.a.example", "'167903745'"),
        target("").replace("x.a.example", "0x7f.1"),
        target("jumpHost: {host: y.b.example}"),
        "{defaults: {target: {port: 23}}, targets: {a-new: {host: x.a.example}}}",
    ],
    PolicyCode.LISTEN: [
        tunnel("local: '15100:db.a.internal:5432'"),
        tunnel("local: '0.0.0.0:15000:db.a.internal:5432'"),
        tunnel("local: '*:15000:db.a.internal:5432'"),
        tunnel("local: '[::]:15000:db.a.internal:5432'"),
        tunnel("local: '127.0.0.2:15000:db.a.internal:5432'"),
        tunnel("type: local, localHost: '0', localPort: 15000, remoteHost: db.a.internal, remotePort: 5432"),
        tunnel("type: local, localHost: '.', localPort: 15000, remoteHost: db.a.internal, remotePort: 5432"),
        tunnel("type: local, localHost: '::ffff:0:0', localPort: 15000, remoteHost: db.a.internal, remotePort: 5432"),
        tunnel("type: local, localHost: localhost, localPort: 0, remoteHost: db.a.internal, remotePort: 5432"),
        tunnel("type: local, localHost: some-name, localPort: 15000, remoteHost: db.a.internal, remotePort: 5432"),
        tunnel("type: local, localPort: 15000-15100, remoteHost: db.a.internal, remotePort: 5432"),
        tunnel("type: local, localPort: 80-15000, remoteHost: db.a.internal, remotePort: 5432"),
        tunnel("type: local, localSocket: /run/b/x.sock, remoteSocket: /run/far/y"),
        tunnel("type: local, localSocket: /run/a/b/x.sock, remoteSocket: /run/far/y"),
        tunnel("type: local, localSocket: /run/a/../b/x.sock, remoteSocket: /run/far/y"),
        tunnel("remote: '80:localhost:8080'"),
        tunnel("remote: '0.0.0.0:9000:localhost:8080'"),
        tunnel("remote: '0:localhost:8080'"),
        tunnel("type: remote, remoteSocket: /run/x, localHost: localhost, localPort: 8080"),
        tunnel("type: socks, port: 1081, allowDestinations: ['x.a.internal:443']"),
        tunnel("type: socks, host: 127.1.1.1, port: 1080, allowDestinations: ['x.a.internal:443']"),
        "{defaults: {tunnel: {localHost: 0.0.0.0}}, " + tunnel("local: '15000:db.a.internal:5432'") + "}",
    ],
    PolicyCode.DESTINATION: [
        tunnel("local: '15000:db.b.internal:5432'"),
        tunnel("local: '15000:a.internal:5432'"),
        tunnel("local: '15000:db.a.internal:5433'"),
        tunnel("local: '15000:127.0.0.1:5432'"),
        tunnel("type: local, localPort: 15000, remotePort: 5432"),
        tunnel("local: '15000:10.3.0.1:443'"),
        tunnel("type: local, localPort: 15000, remoteHost: '10.2.0.1.', remotePort: 5432"),
        tunnel("type: local, localPort: 15000, remoteHost: '${A_EVIL}', remotePort: 5432"),
        tunnel("type: local, localPort: 15000, remoteSocket: /run/far/../docker.sock"),
        tunnel("type: local, localPort: 15000, remoteSocket: /var/run/docker.sock"),
        tunnel("remote: '9000:localhost:22'"),
        tunnel("remote: '9000:10.2.0.1:8080'"),
        tunnel("type: remote, remotePort: 9000, localSocket: /run/docker.sock"),
        tunnel("socks: 1080"),
        tunnel("socks: 1080, allowDestinations: []"),
        tunnel("socks: 1080, denyDestinations: ['*.evil:*']"),
        tunnel("socks: 1080, allowDestinations: ['x.a.internal:443', '*:443']"),
        tunnel("socks: 1080, allowDestinations: ['*.internal:443']"),
        tunnel("socks: 1080, allowDestinations: ['x.a.internal:443-8443']"),
        tunnel("socks: 1080, allowDestinations: ['10.0.0.0/8:*']"),
        tunnel("socks: 1080, allowDestinations: ['0.0.0.0/0:*']"),
        tunnel("socks: 1080, allowDestinations: ['[64:ff9b::/96]:443']"),
        tunnel("socks: 1080, allowDestinations: ['127.0.0.0/8:80']"),
        "{defaults: {tunnel: {remoteHost: evil}}, " + tunnel("type: local, localPort: 15000, remotePort: 5432") + "}",
    ],
    PolicyCode.PATH: [
        target("privateKey: /run/secrets/b/key"),
        target("privateKey: /run/secrets/a/../b/key"),
        target("privateKey: ~/.ssh/id_ed25519"),
        target("privateKey: ['/run/secrets/a/one', {file: /etc/ssh/ssh_host_ed25519_key}]"),
        target("privateKey: /run/secrets/a/key, passphrase: {file: /etc/shadow}"),
        target("privateKey: /run/secrets/a/key, certificate: /etc/cert.pub"),
        target("password: {file: /etc/shadow}"),
        target("knownHosts: /home/me/.ssh/authorized_keys, strictHostKeyChecking: accept-new"),
        target("agent: /run/agent.sock"),
        target("privateKey: /home/me/.ssh/id.pub, agent: /run/secrets/a/agent"),
        target("jumpHost: {host: y.a.example, privateKey: /root/key}"),
        "{defaults: {target: {privateKey: /root/key}}, targets: {a-new: {host: x.a.example}}}",
        tunnel("local: '15000:db.a.internal:5432', portFile: /etc/cron.d/x"),
        tunnel(
            "socks: 1080, allowDestinations: ['x.a.internal:443'], auth: {username: u, password: {file: /etc/shadow}}"
        ),
    ],
    PolicyCode.VARIABLE: [
        target("password: {env: DB_PASSWORD}"),
        target("password: '${EVIL}'"),
        target("user: '${EVIL}'"),
        target("agent: true"),
        tunnel("local: '15000:db.a.internal:5432', description: '${EVIL:-x}'"),
        "{defaults: {tunnel: {labels: {x: '${EVIL}'}}}, targets: {}}",
        tunnel(
            "socks: 1080, allowDestinations: ['x.a.internal:443'], auth: [{username: u, password: {env: DB_PASSWORD}}]"
        ),
    ],
    PolicyCode.COMMAND: [
        target("proxyCommand: [nc, '%h', '%p']"),
        "{defaults: {target: {proxyCommand: [sh]}}, targets: {a-new: {host: x.a.example}}}",
    ],
}


@pytest.mark.parametrize("text", PERMITTED)
def test_permitted_values_are_no_errors(tmp_path: Path, text: str) -> None:
    assert [str(error) for error in load(tmp_path, text).errors] == []


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in REFUSED.items() for text in texts])
def test_refused_values_are_errors_with_a_stable_code(tmp_path: Path, code: PolicyCode, text: str) -> None:
    loaded = load(tmp_path, text)
    assert set(codes(loaded)) == {code}, loaded.errors
    for error in loaded.errors:
        assert error.file == str(tmp_path / "a.yaml")
        assert error.line
        assert f"{tmp_path}/policy.yaml:1" in error.message
        assert str(error).endswith(f" [{code}]")
    assert [result.valid for result in loaded.files] == [True, False]
    assert loaded.desired.targets.keys() == {"bastion", "a-own", "other"}
    assert not loaded.desired.tunnels


@pytest.mark.parametrize("kind", ["local", "remote", "socks"])
def test_a_type_without_an_entry_is_refused(tmp_path: Path, kind: str) -> None:
    text = {
        "local": "local: '15000:db.a.internal:5432'",
        "remote": "remote: '9000:localhost:8080'",
        "socks": "socks: 1080",
    }
    loaded = load(tmp_path, tunnel(text[kind]), **{kind: None})
    assert codes(loaded) == [PolicyCode.TYPE]
    assert f"a {kind} tunnel is not permitted by the policy: expected " in loaded.errors[0].message


@pytest.mark.parametrize("field", ["targets", "servers", "paths", "variables"])
def test_an_absent_list_permits_nothing(tmp_path: Path, field: str) -> None:
    text = target("privateKey: /run/secrets/a/key, user: '${A_HOST}'")
    assert load(tmp_path, text).errors == ()
    [error] = load(tmp_path, text, **{field: None}).errors
    assert "expected none" in error.message


def test_expires_within_requires_a_near_end(tmp_path: Path) -> None:
    text = "local: '15000:db.a.internal:5432'"
    for more, expected in (
        ("", [PolicyCode.EXPIRY]),
        (", expiresAt: 2026-06-28T00:00:00Z", [PolicyCode.EXPIRY]),
        (", expiresAt: 9999-12-31T00:00:00Z", [PolicyCode.EXPIRY]),
        (", expiresAt: 2026-06-27T00:00:00Z", []),
        (", expiresAt: '2026-06-27T22:00:00+02:00'", []),
        (", expiresAt: 2020-01-01T00:00:00Z", []),
        (", enabled: false", [PolicyCode.EXPIRY]),
    ):
        assert codes(load(tmp_path, tunnel(text + more), expiresWithin="720h")) == expected, more


@pytest.mark.parametrize(
    ("patterns", "name", "matches"),
    [
        (["a.yaml"], "a.yaml", True),
        (["a.yaml"], "deep/a.yaml", True),
        (["*.yaml"], "A.yaml", True),
        (["a.yaml"], "A.yaml", False),
        (["a.yaml"], "aXyaml", False),
        (["teams/a/*.yaml"], "teams/a/x.yaml", True),
        (["teams/a/*.yaml"], "teams/a/b/x.yaml", False),
        (["teams/a/**/*.yaml"], "teams/a/b/x.yaml", True),
        (["teams/a/**/*.yaml"], "teams/a/x.yaml", True),
        (["teams/a/*.yaml"], "evil/teams/a/x.yaml", False),
        (["teams/a/*.yaml"], "teams/ab/x.yaml", False),
        (["./teams/a/*.yaml"], "teams/a/x.yaml", True),
        (["x", "teams/?/x.yaml"], "teams/a/x.yaml", True),
        (["a[b].yaml"], "ab.yaml", False),
        (["a"], "a.yaml", False),
    ],
)
def test_patterns_of_file_names(tmp_path: Path, patterns: list[str], name: str, matches: bool) -> None:
    loaded = load(tmp_path, "targets: {}", name, files=patterns)
    assert codes(loaded) == ([] if matches else [PolicyCode.FILE])


def test_a_file_that_no_rule_matches_is_refused_whatever_its_content(tmp_path: Path) -> None:
    loaded = load(tmp_path, tunnel("local: '15000:db.a.internal:5432'"), "b.yaml")
    [error] = loaded.errors
    what = f"{tmp_path}/b.yaml: no rule of {tmp_path}/policy.yaml matches this file"
    assert str(error) == f"{what}: add its name to `files` of a rule [policy-file]"
    assert not loaded.desired.tunnels


def test_a_path_to_a_file_with_dots_is_the_file_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    loaded = load(tmp_path, "targets: {}", "a/../b.yaml", files=["a/**"])
    assert codes(loaded) == [PolicyCode.FILE]


def test_the_first_rule_that_matches_judges_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("targets: {}")
    (tmp_path / "policy").write_text('rules: [{files: [a.yaml], variables: []}, {files: ["*"], variables: ["*"]}]')
    files = Config([tmp_path / "a.yaml"], environ={"X": "1"}, policy=PolicyFile(str(tmp_path / "policy"), {}))
    assert files.reload().errors == ()
    (tmp_path / "a.yaml").write_text("{targets: {}, version: '${X}'}")
    assert codes(files.reload()) == [PolicyCode.VARIABLE]


def test_a_symlink_does_not_lead_out_of_a_permitted_directory(tmp_path: Path) -> None:
    (tmp_path / "ok").mkdir()
    (tmp_path / "ok/..data").mkdir()
    (tmp_path / "ok/..data/key").write_text("key")
    (tmp_path / "ok/key").symlink_to("..data/key")
    (tmp_path / "ok/out").symlink_to("/etc")
    (tmp_path / "ok/passwd").symlink_to("/etc/passwd")
    paths, local = ["ok/*", "ok/out/*"], {"listen": ["./ok/*", "./ok/out/*"], "destinations": ["*:*"]}
    assert load(tmp_path, target("privateKey: ok/key"), paths=paths).errors == ()
    assert codes(load(tmp_path, target("privateKey: ok/passwd"), paths=paths)) == [PolicyCode.PATH]
    assert codes(load(tmp_path, target("privateKey: ok/out/passwd"), paths=["ok/**"])) == [PolicyCode.PATH]
    socket = tunnel("type: local, localSocket: ok/%s, remotePort: 1")
    assert load(tmp_path, socket % "new", local=local).errors == ()
    assert codes(load(tmp_path, socket % "out/new", local={**local, "listen": ["./ok/**"]})) == [PolicyCode.LISTEN]


def test_a_symlinked_file_is_judged_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/content").write_text(tunnel("local: '80:db.a.internal:5432'"))
    load(tmp_path, "targets: {}")
    (tmp_path / "a.yaml").unlink()
    (tmp_path / "a.yaml").symlink_to("elsewhere/content")
    policy = PolicyFile(str(tmp_path / "policy.yaml"), {})
    files = Config([tmp_path], environ={}, options=OPTIONS, policy=policy)
    loaded = files.reload()
    assert codes(loaded) == [PolicyCode.LISTEN]
    assert [Path(result.path).name for result in loaded.files] == ["0.yaml", "a.yaml"], "the policy file does not count"


def test_a_value_that_depends_on_an_unset_variable_is_not_judged(tmp_path: Path) -> None:
    """A CI machine lacks the variables. Such a tunnel is off."""
    text = tunnel("type: local, localPort: '${A_PORT}', remoteHost: '${A_UNSET}', remotePort: 1, expiresAt: '${A_END}'")
    loaded = load(tmp_path, text, expiresWithin="1h")
    assert loaded.errors == ()
    assert [*loaded.broken] == [*loaded.desired.tunnels]


def test_many_other_errors_do_not_hide_a_violation(tmp_path: Path) -> None:
    """At most 100 errors of a file are reported. It is refused for the others too."""
    lines = "".join(f"  b-{number}: {{tunnels: []}}\n" for number in range(150))
    loaded = load(tmp_path, f"targets:\n{lines}  a-own: {{tunnels: [{{remote: '80:evil:1'}}]}}\n")
    assert [result.valid for result in loaded.files] == [True, False]


def test_the_last_good_content_stays_under_a_stricter_policy(tmp_path: Path) -> None:
    good, other = tunnel("local: '15000:db.a.internal:5432'"), tunnel("local: '15001:db.a.internal:5432'")
    load(tmp_path, good)
    path = tmp_path / "policy.yaml"
    policy = path.read_text()
    files = Config([tmp_path], environ={}, options=OPTIONS, policy=PolicyFile(str(path), {}))
    before = files.reload()
    assert before.errors == ()
    path.write_text(policy.replace("15000-15049", "15001-15049"))
    loaded = files.reload()
    assert codes(loaded) == [PolicyCode.LISTEN]
    assert loaded.desired == before.desired
    assert [result.valid for result in loaded.files] == [True, False]
    (tmp_path / "0.yaml").write_text(BASE.replace("host: o", "host: p"))
    assert files.reload().desired.targets["other"] != before.desired.targets["other"], "other files are applied"
    (tmp_path / "a.yaml").write_text(other)
    loaded = files.reload()
    assert loaded.errors == ()
    assert list(loaded.desired.tunnels) == ["a-own/local-15001"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty file"),
        ("rules: {}", ":1:1: rules: "),
        ("{}", "`rules` is missing"),
        ("rules: [{targets: {}}]", "`files` is missing: add it"),
        ("rules: [{files: []}]", "empty list: expected a list of file names or patterns"),
        ("rules: [{files: a.yaml}]", 'invalid list of patterns "a.yaml": expected a list of file names or patterns'),
        ("rules: [{files: [x], listn: []}]", "unknown key"),
        ("rules: [{files: [x], local: {listn: []}}]", "unknown key: did you mean `listen`?"),
        (
            "rules: [{files: [x], local: {listen: [80]}}]",
            "rules[0].local.listen[0]: invalid address 80: expected ADDRESS",
        ),
        ("rules: [{files: [x], local: {listen: ['1.2.3.4']}}]", "is not host:ports"),
        ("rules: [{files: [x], local: {listen: ['127.1:80']}}]", "has no valid host"),
        ("rules: [{files: [x], local: {destinations: ['h:0']}}]", "has no valid ports"),
        ("rules: [{files: [x], socks: {destinations: ['10.0.0.1/8:1']}}]", "has host bits set"),
        ("rules: [{files: [x], servers: ['h:99999']}]", "has no valid ports"),
        ("rules: [{files: [x], expiresWithin: 30d}]", 'invalid duration "30d": expected a number with a unit'),
        ("rules: [{files: [x], commands: yes}]", 'invalid value "yes": expected true or false'),
        ("rules: [{files: &a [x], paths: *a}]", "anchors are not supported"),
        ("{version: 2, rules: []}", "invalid version 2: expected 1"),
        ("rules: [{files: [x]}, {files: [x], files: [y]}]", "duplicate key"),
    ],
)
def test_a_bad_policy_file_is_an_error_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    (tmp_path / "a.yaml").write_text("targets: {}")
    policy = PolicyFile(str(tmp_path / "policy.yaml"), {})
    loaded = Config([tmp_path / "a.yaml"], environ={}, policy=policy).reload()
    assert not loaded.usable
    assert {error.file for error in loaded.errors} == {str(tmp_path / "policy.yaml")}
    assert any(message in str(error) for error in loaded.errors), loaded.errors
    assert loaded.policy is not None
    assert not loaded.policy.valid


def test_each_code_has_a_meaning() -> None:
    assert POLICY_CODES.keys() == set(PolicyCode)
    assert {code.value for code in PolicyCode} == {
        *(f"policy-{word}" for word in ("file", "target", "server", "type", "listen", "destination", "expiry")),
        *(f"policy-{word}" for word in ("path", "variable", "command")),
    }


@pytest.mark.parametrize(
    ("pattern", "directory"), [("/run/a/*.sock", "/run/a"), ("/run/**", "/run"), ("/*", "/"), ("/run/a/key", "/run/a")]
)
def test_the_directory_of_a_pattern_has_no_wildcard(pattern: str, directory: str) -> None:
    assert Glob(pattern, pattern).directory == directory


@pytest.mark.parametrize(
    ("rules", "host", "permitted"),
    [
        (["127.0.0.1:*"], "localhost", False),
        (["127.0.0.1:*", "[::1]:*"], "LOCALHOST.", True),
        (["localhost:*"], "127.0.0.1", True),
        (["localhost:*"], "::1", True),
        (["localhost:*"], "::ffff:127.0.0.1", True),
        (["localhost:*"], "127.0.0.2", False),
        (["0.0.0.0/0:*"], "db", False),
        (["0.0.0.0/0:*"], "*", False),
        (["0.0.0.0/0:*", "[::/0]:*"], "*", True),
        (["[::/0]:*"], "::ffff:1.2.3.4", False),
        (["[fe80::/10]:*"], "fe80::1%eth0", True),
        (["10.0.0.0/8:*"], "10.1", False),
        (["10.0.0.0/8:*"], "012.0.0.1", False),
        (["10.0.0.0/8:*"], "10.0.0.1.", False),
        (["10.0.0.0/8:*"], "0xa000001", False),
        (["*:*"], "012.0.0.1", True),
        (["10.0.0.0/8:*"], ".", False),
        (["10.0.0.0/8:*"], "", False),
        (["*.a:*"], "x.A.", True),
        (["*.a:*"], "a", False),
        (["*.a:*"], ".a", False),
        (["*.a:*"], "x..a", False),
        (["*.a:*"], "x\u3002a", False),
        (["*:1-40,60-90", "*:41-59"], "x", True),
        (["*:1-40,60-90", "*:42-59"], "x", False),
    ],
)
def test_hosts_are_compared_as_what_they_stand_for(rules: list[str], host: str, permitted: bool) -> None:
    places = PermittedPlaces(tuple(map(address_rule, rules)), ())
    assert places.permits(host, 30, 80) == permitted


def test_the_schema_is_printed_and_describes_each_field(tmp_path: Path) -> None:
    printed = CliRunner().invoke(main, ["schema", "--policy"])
    assert printed.exit_code == 0
    assert printed.output == (Path(__file__).parents[2] / "schemas/policy.schema.json").read_text()
    schema = json.loads(printed.output)
    Draft202012Validator.check_schema(schema)
    rule = schema["properties"]["rules"]["items"]
    mappings = (rule["properties"][name] for name in ("targets", "local", "remote", "socks"))
    nested = [field for mapping in mappings for field in mapping["properties"].items()]
    for name, field in [*schema["properties"].items(), *rule["properties"].items(), *nested]:
        assert field["description"].endswith("."), name
        assert field["x-expected"], name
    examples = {name: field["examples"][0] for name, field in rule["properties"].items() if "examples" in field}
    policy = tmp_path / "policy.yaml"
    policy.write_text(json.dumps({"rules": [examples, *schema["properties"]["rules"]["examples"][0]]}))
    assert PolicyFile(str(policy), {}).read().problems == ()
