"""Guides to the reasons: what each one means, its likely causes, and the fix for each cause.

`tunnels explain REASON` and the generated page docs/reference/reasons.md show them. The short fix that a message ends
with is `DEFAULT_FIX` of core/observed.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.core.backoff import (
    GUARDED,
    GUARDED_INITIAL,
    GUARDED_MAX,
    HELD_MAX,
    QUICK,
    QUICK_FOR,
    QUICK_MAX,
    SOCKET_FORBIDDEN_MAX,
    SOCKET_RETRY,
)
from reconciler.core.observed import Reason


@dataclass(frozen=True, slots=True)
class Cause:
    """A likely cause, and what to do about it."""

    what: str
    fix: str


@dataclass(frozen=True, slots=True)
class Guide:
    """What a word of the program means. The likeliest cause is the first."""

    meaning: str
    causes: tuple[Cause, ...]

    @classmethod
    def of(cls, meaning: str, *causes: tuple[str, str]) -> Guide:
        return cls(meaning, tuple(Cause(what, fix) for what, fix in causes))


REASON_GUIDES: dict[Reason, Guide] = {
    Reason.DNS: Guide.of(
        "A name does not resolve.",
        ("the name is misspelt or was removed", "correct `host`; `getent hosts NAME` shows what this machine finds"),
        ("the name exists only behind a VPN or in another resolver", "connect the VPN, or set that resolver"),
        (
            "the name has no address of the family that `addressFamily` or `bindAddress` requires",
            "change that field, or add a record of the family",
        ),
        ("behind a jump host: the resolver of the jump host does not know it", "use an address, or repair it there"),
    ),
    Reason.REFUSED: Guide.of(
        "The machine answers, and nothing accepts connections at the port.",
        ("sshd does not run, or is being restarted", "start it; a restart passes by itself"),
        ("sshd listens on another port", "correct `port`; `ss -ltnp` on the server shows the port"),
        ("a firewall rejects the connection", "allow this machine in it"),
    ),
    Reason.UNREACHABLE: Guide.of(
        "There is no way to the server, or none from `bindAddress`.",
        ("the network or the VPN of this machine is down", "connect it"),
        ("a firewall or a router reports that there is no route", "check the route: `ip route get ADDRESS`"),
        ("this machine does not have the address of `bindAddress`", "correct it, or bring up its interface"),
    ),
    Reason.TIMEOUT: Guide.of(
        "Nothing answered within the time limit; the message says at which step.",
        ("a firewall drops the packets", "allow the port in it; security groups of a cloud drop, they do not reject"),
        ("the address is wrong, or the machine is off", "correct `host`, or start the machine"),
        (
            "the key exchange hangs: the path drops full-size packets",
            "lower the MTU of the network interface here, as tunnels inside a VPN need it",
        ),
        ("the login takes longer than the limit", "raise `connectTimeout`"),
        ("the server does not answer a request to listen", "raise `dialTimeout`, or check the load of the server"),
    ),
    Reason.SERVER_BUSY: Guide.of(
        "The server closed the connection before its banner or during the login, or says that it has no room.",
        ("more logins at once than MaxStartups allows", "raise MaxStartups in its sshd_config, or wait"),
        (
            "the server bans this address after failed logins (PerSourcePenalties, fail2ban)",
            "remove the cause of the failed logins, then wait or lift the ban",
        ),
        ("a load balancer or a port forward has no server behind it", "start the server behind it"),
    ),
    Reason.HOST_KEY: Guide.of(
        "The key of the server is not one that this target trusts. No credential was sent to it.",
        ("the key was never pinned", "compare the fingerprint that `tunnels trust FILE` shows, then add the key"),
        (
            "the server was reinstalled or replaced",
            "confirm that with its operator, remove the old key, and add the new one with `tunnels trust`",
        ),
        ("the address leads to another machine", "correct `host`, `port` or DNS"),
        ("another machine answers in place of the server", "do not trust the key; find that machine"),
        ("`knownHosts` names another file than the one with the key", "correct `knownHosts`"),
    ),
    Reason.AUTH: Guide.of(
        "The server refused the login.",
        ("the server does not have the public key of this user", "add it to authorized_keys of `user`"),
        ("`user` is not the right user", "correct `user`; the default is the user of this process"),
        ("authorized_keys or its directory is writable for others", "see the server's log, and correct the modes"),
        ("the agent offers too many keys first", "name one key: a path that ends in `.pub` selects it in the agent"),
        ("the server accepts only SHA-2 or other types of keys", "use an Ed25519 key"),
        (
            "a password has expired, or a one-time code is requested",
            "log in once with `ssh`; use a key or a certificate",
        ),
    ),
    Reason.CERTIFICATE_EXPIRED: Guide.of(
        "A certificate of this program or of the server is not valid at this time.",
        ("the job that renews it did not run", "run it; the new file is used at once"),
        ("the renewed certificate is in another file", "correct `certificate`"),
        ("a clock is wrong", "set the clocks of this machine and of the server with NTP"),
        ("the certificate becomes valid later", "wait: the target is tried at that moment"),
    ),
    Reason.PROTOCOL: Guide.of(
        "Both sides have no algorithm in common, or one of them violated the SSH protocol.",
        (
            "an old server offers only algorithms that are off here",
            "allow one of them in `algorithms`; the message lists what the server offers",
        ),
        ("`algorithms` names too few", "remove the kind, so that its default offer is used"),
        ("the port belongs to another service, such as HTTP", "correct `port`"),
        ("a defect of the server", "update it, or report it to its maker with the message"),
    ),
    Reason.KEEPALIVE: Guide.of(
        "A connection that was up got no answer for `keepaliveInterval` times `keepaliveCountMax` plus one.",
        ("the network was interrupted", "nothing, if the target is up again; else check the path"),
        ("the server is overloaded or suspended", "check its load; raise `keepaliveCountMax` to tolerate it"),
        ("a firewall dropped the idle connection", "set a shorter `keepaliveInterval`"),
        ("the server does not implement keepalive requests", "set `keepaliveInterval: 0s`"),
    ),
    Reason.CLOSED_BY_SERVER: Guide.of(
        "The server ended a connection that was up, or ended the key exchange.",
        ("the server was restarted", "nothing: the target is connected again at once"),
        ("an administrator or a time limit ended the session", "see the server's log"),
        (
            "a firewall or load balancer limits the idle time or the age of connections",
            "the status says so if three losses agree; set a shorter `keepaliveInterval`, or raise the limit there",
        ),
        ("an idle limit of the server (ChannelTimeout, ClientAliveInterval)", "raise it in its sshd_config"),
    ),
    Reason.LOCAL_PORT_IN_USE: Guide.of(
        "The address to listen on belongs to another program of this machine.",
        ("an `ssh -L` or another `tunnels run` has it", "stop it; the message names the process if the system tells"),
        ("the service itself runs on this machine too", "choose another `localPort`, or `localPort: 0`"),
        (
            "an outgoing connection has the port",
            "choose a port outside `sysctl net.ipv4.ip_local_port_range`",
        ),
    ),
    Reason.BIND: Guide.of(
        "The address to listen on cannot be used.",
        ("a port below 1024 without the permission", "choose a higher port, or grant CAP_NET_BIND_SERVICE"),
        ("this machine does not have the address", "correct `localHost`"),
        ("the directory of a unix socket is missing or not writable", "create it for the user of the process"),
    ),
    Reason.REMOTE_PORT_IN_USE: Guide.of(
        "The server cannot listen on the port: another session or program has it.",
        (
            "an earlier session that sshd has not given up",
            "wait for its ClientAliveInterval times ClientAliveCountMax, or end that sshd process",
        ),
        ("another replica of this program", "set `onConflict: standby` if the replicas are to take turns"),
        ("a program of the server", "`ss -ltnp` on the server names it; choose another `remotePort`"),
        ("a port below 1024 without a login as root", "choose a higher `remotePort`"),
        ("a unix socket that an earlier session left behind", "remove it, or set StreamLocalBindUnlink"),
    ),
    Reason.FORBIDDEN_BY_SERVER: Guide.of(
        "The server does not permit the forward.",
        ("AllowTcpForwarding or DisableForwarding in its sshd_config", "permit it there for this user"),
        ("PermitOpen or PermitListen does not list the address", "add it there"),
        (
            "an option of the key in authorized_keys: restrict, no-port-forwarding, permitopen=, permitlisten=",
            "add `port-forwarding` or the address there; the message quotes what the server said",
        ),
        ("the server supports no remote forwards or unix sockets", "use OpenSSH"),
    ),
    Reason.DESTINATION: Guide.of(
        "The SSH server, or this machine for a remote tunnel, cannot connect to the destination.",
        ("the service does not run", "start it"),
        (
            "the address is not the one that the SSH server sees",
            "correct `remoteHost` and `remotePort`: they are resolved on the SSH server",
        ),
        ("a firewall between the SSH server and the service", "allow the SSH server in it"),
        ("PermitOpen of the SSH server does not list the destination", "add it there"),
    ),
    Reason.PROBE: Guide.of(
        "The health probe of the tunnel fails.",
        ("the service is unhealthy", "see its log"),
        ("`health` asks for the wrong path, or expects too fast an answer", "correct `path`, raise `timeout`"),
        ("the service speaks another protocol than the probe", "use `type: tcp`"),
    ),
    Reason.SECRET_UNREADABLE: Guide.of(
        "A key, certificate, password or known hosts file, or a variable, cannot be read.",
        ("the file is missing, or belongs to another user", "create it, or correct its mode: it is read at once"),
        ("the variable is not set in the environment of the process", "set it, then restart the process"),
        ("the passphrase is missing or wrong", "set `passphrase`, or use an agent"),
        ("the file has another format, such as that of PuTTY", "convert it: `puttygen KEY -O private-openssh`"),
        ("the agent does not run", "start it, and set SSH_AUTH_SOCK for the process"),
    ),
    Reason.RESOURCES: Guide.of(
        "This process has reached a limit; the message names what uses the descriptors.",
        ("the limit of open files is low", "raise it: LimitNOFILE= of the unit, `ulimit -n`, or the container's limit"),
        ("clients do not close their connections", "set `maxConnections` and `idleTimeout` of the tunnel"),
        ("the machine has no memory left", "free memory, or raise the limit of the container"),
    ),
    Reason.INTERNAL: Guide.of(
        "A defect of this program.",
        ("an error that the program does not expect", "report it with the log of the process; other tunnels go on"),
    ),
}

_LISTENING = frozenset({Reason.LOCAL_PORT_IN_USE, Reason.REMOTE_PORT_IN_USE, Reason.BIND})


def retry_of(reason: Reason) -> str:
    """Return when the program tries again, as a sentence."""
    if reason in GUARDED:
        return (
            f"After {GUARDED_INITIAL:g} s, then less often, at most every {GUARDED_MAX / 60:g} minutes: servers ban "
            "clients that guess. At once when a file with a credential or trusted keys changes."
        )
    if reason in QUICK:
        return (
            f"Within {QUICK_MAX:g} s for the first {QUICK_FOR:g} s, then after a tenth of the outage so far, at most "
            f"`reconnect.max`; within {HELD_MAX:g} s while a client waits."
        )
    if reason in _LISTENING:
        return f"Every {SOCKET_RETRY:g} s."
    match reason:
        case Reason.FORBIDDEN_BY_SERVER:
            return f"After {SOCKET_RETRY:g} s, then less often, at most every {SOCKET_FORBIDDEN_MAX:g} s."
        case Reason.DESTINATION:
            return "With the next client."
        case Reason.PROBE:
            return "With the next probe, after `health.interval`."
        case Reason.SECRET_UNREADABLE:
            return "By `reconnect`, and at once when the file changes."
        case _:
            return "By `reconnect`: after `initial`, then `factor` times longer, at most `max`."
