"""Adds messages about settings of ssh that tunnels.yaml lacks or handles in another way."""

from __future__ import annotations

from reconciler.cli.ssh_import.login import Messages
from reconciler.cli.ssh_import.openssh import Settings

# Only a session on the server could use these.
_OF_SESSIONS = {
    "forwardagent": "ForwardAgent",
    "forwardx11": "ForwardX11",
    "setenv": "SetEnv",
}
# Without these the tunnel may work in another way, or not at all.
_LOST = {
    "bindinterface": "BindInterface",
    "knownhostscommand": "KnownHostsCommand",
    "pkcs11provider": "PKCS11Provider",
    "remotecommand": "RemoteCommand",
    "revokedhostkeys": "RevokedHostKeys",
    "tunnel": "Tunnel (-w)",
}
_OTHER_LOGINS = {"gssapiauthentication": "GSSAPIAuthentication", "hostbasedauthentication": "HostbasedAuthentication"}


def add_differences(settings: Settings, messages: Messages, *, is_system_config_read: bool) -> None:
    """Add messages about settings without a counterpart.

    Debian's /etc/ssh/ssh_config turns GSSAPIAuthentication on for every connection. If ssh reads that file, a message
    needs GSSAPIDelegateCredentials too.
    """
    for keyword, name in _OF_SESSIONS.items():
        if settings.is_on(keyword):
            messages.notes.append(f"{name} is left out: tunnels open no session")
    for keyword, name in _LOST.items():
        if settings.is_on(keyword):
            messages.lost.append(f"{name}: no counterpart")
    if settings.is_on("permitlocalcommand") and settings.first("localcommand"):
        messages.lost.append("LocalCommand: no counterpart")
    is_gssapi_chosen = not is_system_config_read or settings.is_on("gssapidelegatecredentials")
    for keyword, name in _OTHER_LOGINS.items():
        if settings.is_on(keyword) and (is_gssapi_chosen or keyword != "gssapiauthentication"):
            messages.lost.append(f"{name}: no counterpart: log in with a key, an agent or a password")
    if settings.is_on("verifyhostkeydns"):
        messages.lost.append("VerifyHostKeyDNS: no counterpart: host keys come from `knownHosts` or `hostKeys`")
    if settings.is_on("exitonforwardfailure") and not settings.is_on("clearallforwardings"):
        messages.notes.append("ExitOnForwardFailure: a forward that fails is tried again, and the others stay open")
