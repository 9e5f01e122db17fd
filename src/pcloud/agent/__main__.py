"""`pcloud-remoted`: the command line, and the process's start and end."""

from __future__ import annotations

import ctypes
import os
import sys

from pcloud.agent import VERSION, system
from pcloud.agent.loop import Loop, log, set_log_level

HELP = """usage: pcloud-remoted [--address ADDRESS] [--port PORT] [--authkey FILE] [--log-level LEVEL]

Runs resource agents and services of this guest for pacemaker-cloud, or for a Pacemaker cluster (Pacemaker Remote).
Runs in the foreground.

  --address ADDRESS   listen on this address (default: all)
  --port PORT         TCP port (default: 3121)
  --authkey FILE      pre-shared key (default: /etc/pacemaker/authkey)
  --ca FILE, --certificate FILE, --key FILE, --crl FILE
                      prove both sides by X.509 certificates (PEM) instead of the pre-shared key
  --log-level LEVEL   error, warning, notice (default), info or debug
  --version           print the version and end
  --help              print this and end

The environment variables PCMK_authkey_location, PCMK_remote_address and PCMK_remote_port, and PCMK_ca_file, PCMK_cert_file,
PCMK_key_file and PCMK_crl_file, are the defaults of the options, as for Pacemaker's own daemon.
"""
_PR_SET_CHILD_SUBREAPER = 36
LEVELS = {"error": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}


class UsageError(Exception):
    """The command line is wrong."""


def read_options(arguments: list[str]) -> dict[str, str]:
    """Return the options by name; UsageError."""
    options = {
        "address": os.environ.get("PCMK_remote_address", ""),
        "port": os.environ.get("PCMK_remote_port", "3121"),
        "authkey": os.environ.get("PCMK_authkey_location", "/etc/pacemaker/authkey"),
        "ca": os.environ.get("PCMK_ca_file", ""),
        "certificate": os.environ.get("PCMK_cert_file", ""),
        "key": os.environ.get("PCMK_key_file", ""),
        "crl": os.environ.get("PCMK_crl_file", ""),
        "log-level": "notice",
    }
    left = list(arguments)
    while left:
        name, separator, value = left.pop(0).partition("=")
        if not name.startswith("--") or name[2:] not in options:
            raise UsageError(f"unknown option {name}")
        if not separator:
            if not left:
                raise UsageError(f"{name} needs a value")
            value = left.pop(0)
        options[name[2:]] = value
    if not options["port"].isdigit() or int(options["port"]) > 65535:
        raise UsageError(f"{options['port']!r} is no port number")
    if options["log-level"] not in LEVELS:
        raise UsageError(f"{options['log-level']!r} is no log level; known are {', '.join(LEVELS)}")
    if options["ca"] and not (options["certificate"] and options["key"]):
        raise UsageError("--ca needs --certificate and --key")
    return options


def read_key(path: str) -> bytes:
    """Return the pre-shared key, or b"" when it can not be read (it may come later)."""
    try:
        with open(path, "rb") as file:
            return file.read(65535)
    except OSError as error:
        log(4, f"the key {path} can not be read ({error.strerror}): connections are refused until it can")
        return b""


def notify_ready() -> None:
    """Tell systemd (Type=notify) that we serve."""
    path = os.environ.pop("NOTIFY_SOCKET", "")
    if path:
        out = system.socket(system.AF_UNIX, system.SOCK_DGRAM)
        try:
            out.sendto(b"READY=1", "\0" + path[1:] if path.startswith("@") else path)
        except OSError as error:
            log(4, f"systemd could not be told that we are ready: {error.strerror}")
        finally:
            out.close()


def adopt_orphans() -> None:
    """Become the parent of what agents leave running, so that it is reaped at once when it ends, whatever process 1 of
    the guest does: `kill -0` finds a zombie alive, and most OCF monitors ask just that."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        log(4, f"orphans can not be adopted: {os.strerror(ctypes.get_errno())}")


def serve(options: dict[str, str]) -> int:
    """Serve until told to end; return the exit code."""
    from pcloud.agent.dispatch import Daemon
    from pcloud.wire.gnutls import Credentials, TlsError

    for number in (0, 1, 2):  # children get these; none may be a socket of ours
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    os.umask(0o022)
    adopt_orphans()
    try:
        os.makedirs("/run/resource-agents", 0o755, exist_ok=True)
    except OSError as error:
        log(4, f"/run/resource-agents can not be made: {error.strerror}")
    try:
        if options["ca"]:
            credentials = Credentials.x509(
                server=True,
                ca=options["ca"],
                certificate=options["certificate"],
                key=options["key"],
                crl=options["crl"],
            )
        else:
            credentials = Credentials.psk_server(lambda: read_key(options["authkey"]))
            read_key(options["authkey"])  # for the warning
        loop = Loop()
        daemon = Daemon(loop, credentials)
        # Before it listens: whoever sees the port may tell it to end.
        loop.on_signal(system.SIGTERM, daemon.shutdown)
        loop.on_signal(system.SIGINT, daemon.shutdown)
        system.handle(system.SIGPIPE, system.SIG_IGN)
        system.handle(system.SIGHUP, system.SIG_IGN)
        port = daemon.server.listen(options["address"], int(options["port"]))
    except (OSError, UnicodeError, TlsError) as error:
        log(3, f"can not listen on {options['address'] or 'all addresses'}, port {options['port']}: {error}")
        return 1
    log(5, f"listening on {options['address'] or 'all addresses'}, port {port}")
    # What starting up needed and does not hold any more goes back to the kernel: 2 MB where the modules were compiled.
    ctypes.CDLL(None).malloc_trim(0)
    notify_ready()
    loop.run()
    log(5, "ended")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if "--help" in given or "-h" in given:
        sys.stdout.write(HELP)
        return 0
    if "--version" in given:
        sys.stdout.write(f"pcloud-remoted {VERSION}\n")
        return 0
    try:
        options = read_options(given)
    except UsageError as error:
        sys.stderr.write(f"pcloud-remoted: {error}\nTry 'pcloud-remoted --help'.\n")
        return 2
    set_log_level(LEVELS[options["log-level"]])
    return serve(options)


if __name__ == "__main__":
    sys.exit(main())
