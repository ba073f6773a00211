"""Guides to the codes of problems in files: what each one means, its likely causes, and the fix for each cause.

`tunnels explain CODE` and the generated page docs/reference/codes.md show them. The meaning of a warning is that of
`WARNINGS`.
"""

from __future__ import annotations

from reconciler.config.problem import POLICY_CODES, WARNINGS, Code, ErrorCode, PolicyCode, WarningCode
from reconciler.core.text.reason_guides import Guide


def _warning(code: WarningCode, *causes: tuple[str, str]) -> Guide:
    return Guide.of(WARNINGS[code], *causes)


_ERRORS: dict[Code, Guide] = {
    ErrorCode.UNREADABLE: Guide.of(
        "A file or directory cannot be read, or is empty. What it had before stays in use.",
        ("the path is wrong, or relative to another directory", "correct it"),
        ("the user of the process may not read it", "correct its mode or its owner"),
        ("an editor or a deployment emptied the file", "write its content; `targets: {}` means no targets"),
        ("the directory has no `*.yaml` or `*.yml` file", "add one, or name another directory"),
    ),
    ErrorCode.SYNTAX: Guide.of(
        "The text is not YAML, or it is YAML that is not accepted here.",
        ("wrong indentation, or a missing quote or bracket", "correct it at the line and column of the message"),
        ("a key is written twice", "remove one"),
        ("aliases, anchors or tags", "write the value at each place, or use `defaults`"),
        ("the file is larger than 1 MiB or nested deeper than 24 levels", "divide it into several files"),
    ),
    ErrorCode.UNKNOWN_KEY: Guide.of(
        "There is no field of that name at that place.",
        ("a misspelt name", "use the name that the message suggests; `tunnels explain NAME` shows where it belongs"),
        ("the field belongs one level higher or lower", "move it, or correct the indentation"),
        ("a note or an anchor of your own", "begin its name with `x-`"),
    ),
    ErrorCode.VALUE: Guide.of(
        "A field has a value that it does not take. The message says what is expected.",
        ("a duration or a rate without its unit", "write `10s`, `10MiB/s`"),
        ("YAML reads the value as another type", 'put text in quotes: `"5432:db:5432"`'),
        ("a `${VAR}` has another content than the field takes", "correct the variable"),
    ),
    ErrorCode.MISSING: Guide.of(
        "A field is required there and is not set.",
        ("a target without `host`, or a tunnel without its destination", "add the field that the message names"),
        ("two tunnels of a target would get the same default name", "give each a `name`"),
        ("the target is defined in a file that was not given", "give that file too, or add `host`"),
    ),
    ErrorCode.CONFLICT: Guide.of(
        "Two settings exclude each other.",
        ("two tunnels listen on the same address", "change one port; the message names the other tunnel"),
        ("a short form (`local`, `remote`, `socks`) and the field that it contains", "keep one of them"),
        ("a field that has no effect for this type of tunnel or path", "remove it"),
    ),
    ErrorCode.DUPLICATE: Guide.of(
        "The same target, tunnel or user is defined twice.",
        ("two files define the same target", "in one of them, write only its `tunnels`, without `host`"),
        ("a tunnel was copied and kept its name", "rename one"),
    ),
    ErrorCode.REFERENCE: Guide.of(
        "A name leads to nothing, or jump hosts lead back to themselves.",
        ("`jumpHost` names a target that does not exist", "correct it; targets of other files can be named too"),
        ("the jump hosts form a cycle", "remove one of them"),
    ),
    ErrorCode.FORBIDDEN: Guide.of(
        "The command line of the process does not allow what the file asks for.",
        (
            "a secret outside `--secrets-dir`, or not from a file with `--secrets-dir-only`",
            "move it into the directory",
        ),
        ("a variable without the prefix of `--allow-env`", "rename it, or allow its prefix"),
        ("`proxyCommand` without `--allow-commands`", "start the process with `--allow-commands`"),
    ),
}

_WARNINGS: dict[Code, Guide] = {
    WarningCode.LITERAL_SECRET: _warning(
        WarningCode.LITERAL_SECRET,
        ("a password or key was pasted into the file", "move it into a file or a variable, and change the secret"),
    ),
    WarningCode.HOST_KEYS_UNCHECKED: _warning(
        WarningCode.HOST_KEYS_UNCHECKED,
        ("the host key was not at hand", "pin it: `tunnels trust FILE --known-hosts`"),
        ("the server gets a new key with each start", "sign its keys: `hostKeys: [@cert-authority ...]`"),
    ),
    WarningCode.BEYOND_LOOPBACK: _warning(
        WarningCode.BEYOND_LOOPBACK,
        ("`localHost: 0.0.0.0` for a container or a gateway", "limit the clients with `allow`, then waive the warning"),
        ("the address was copied", "remove `localHost`: the default is 127.0.0.1"),
    ),
    WarningCode.OPEN_PROXY: _warning(
        WarningCode.OPEN_PROXY,
        ("the proxy is for several machines", "add `auth`, or `allow` with their network"),
        ("another program restricts who can connect", "waive it with `x-allow: [open-proxy]`"),
    ),
    WarningCode.REMOTE_BEYOND_LOOPBACK: _warning(
        WarningCode.REMOTE_BEYOND_LOOPBACK,
        (
            "the port is for other machines than the server",
            "set `GatewayPorts clientspecified` in its sshd_config; `tunnels diagnose` shows the address in use",
        ),
        ("a reverse proxy on the server uses the port", "set `remoteHost: localhost`"),
    ),
    WarningCode.UNSET_VARIABLE: _warning(
        WarningCode.UNSET_VARIABLE,
        ("the file is checked on a machine without the variables, as in CI", "waive it there, or set dummy values"),
        ("the name is misspelt", "correct it, or give a default: `${NAME:-value}`"),
        ("the process has no home directory", "write an absolute path in place of `~`"),
    ),
    WarningCode.SECRET_UNREADABLE: _warning(
        WarningCode.SECRET_UNREADABLE,
        ("the file is checked on another machine", "waive it there with `x-allow`"),
        ("the path is wrong", "correct it: a relative path starts at the directory of its file"),
        ("the mode of the file excludes this user", "make it readable for the user of the process"),
    ),
    WarningCode.NO_LOGIN: _warning(
        WarningCode.NO_LOGIN,
        ("keys of `~/.ssh` and the agent are not used unless they are named", "add `privateKey`, or `agent: true`"),
        ("the server needs no credential", "waive it with `x-allow: [no-login]`"),
    ),
    WarningCode.UNUSABLE_LOGIN: _warning(
        WarningCode.UNUSABLE_LOGIN,
        ("an encrypted key without `passphrase`, or with a wrong one", "set `passphrase`, or use an agent"),
        ("a public key in place of the private one", "correct the path"),
        ("a certificate of another key, or one that has expired", "name the certificate of this key, or renew it"),
    ),
    WarningCode.UNKNOWN_ALGORITHM: _warning(
        WarningCode.UNKNOWN_ALGORITHM,
        ("the name is misspelt", "correct it: `ssh -Q cipher` lists names"),
        ("the algorithm is in OpenSSH only", "remove it, or name another one of its kind"),
    ),
    WarningCode.EXPIRED: _warning(
        WarningCode.EXPIRED,
        ("the temporary access has ended", "remove the tunnel, or set a later `expiresAt`"),
    ),
    WarningCode.MILLISECONDS: _warning(
        WarningCode.MILLISECONDS,
        ("seconds were meant", "write the unit: `10s`"),
        ("milliseconds were meant", "write the unit: `100ms`"),
    ),
    WarningCode.NAMES_REFUSED: _warning(
        WarningCode.NAMES_REFUSED,
        (
            "a name could lead to a denied address, and only the SSH server resolves it",
            "list the permitted names in `allowDestinations`",
        ),
    ),
    WarningCode.METADATA_DESTINATION: _warning(
        WarningCode.METADATA_DESTINATION,
        ("the address was copied from a cloud's documentation", "forward the service itself"),
        ("access to the metadata is intended", "waive it with `x-allow: [metadata-destination]`"),
    ),
}


def _refusal(code: PolicyCode, *causes: tuple[str, str]) -> Guide:
    return Guide.of(POLICY_CODES[code], *causes)


_REFUSALS: dict[Code, Guide] = {
    PolicyCode.FILE: _refusal(
        PolicyCode.FILE,
        ("a new file, or a file that was renamed", "ask the owner of the policy for a rule, or correct its name"),
        ("the patterns of `files` are relative to the directory of the policy file", "correct the pattern"),
    ),
    PolicyCode.TARGET: _refusal(
        PolicyCode.TARGET,
        ("the target belongs to another team", "ask for its name in `targets.use`"),
        ("a new target", "choose a name that `targets.define` permits"),
    ),
    PolicyCode.SERVER: _refusal(
        PolicyCode.SERVER,
        ("the target has another address or port than the rule lists", "correct it, or ask for it in `servers`"),
    ),
    PolicyCode.TYPE: _refusal(
        PolicyCode.TYPE,
        ("the rule has no `local`, `remote` or `socks`", "use a type that it has, or ask for this one"),
    ),
    PolicyCode.LISTEN: _refusal(
        PolicyCode.LISTEN,
        ("the port is outside the range of this file", "choose a port of the range"),
        ("the tunnel listens beyond loopback", "remove `localHost`, or ask for the address in `listen`"),
    ),
    PolicyCode.DESTINATION: _refusal(
        PolicyCode.DESTINATION,
        ("the destination is a name where the rule lists addresses, or the other way", "write it as the rule does"),
        ("a SOCKS tunnel without `allowDestinations` permits everything", "list its destinations"),
    ),
    PolicyCode.EXPIRY: _refusal(
        PolicyCode.EXPIRY,
        ("access that the rule permits for a limited time", "set an `expiresAt` within `expiresWithin`"),
    ),
    PolicyCode.PATH: _refusal(
        PolicyCode.PATH,
        ("a key or socket outside the directory of the team", "move it there, or ask for it in `paths`"),
    ),
    PolicyCode.VARIABLE: _refusal(
        PolicyCode.VARIABLE,
        ("a variable of another team, or one that is misspelt", "correct it, or ask for it in `variables`"),
    ),
    PolicyCode.COMMAND: _refusal(
        PolicyCode.COMMAND,
        ("a `proxyCommand` runs programs on this machine", "use `jumpHosts`, or ask for `commands: true`"),
    ),
}

CODE_GUIDES: dict[Code, Guide] = {**_ERRORS, **_WARNINGS, **_REFUSALS}
