"""Resource classes `ocf` and `lsb`: agents that are programs, run with the class's environment and exit codes.

Owns: where agents are found, what they see of our environment, and what their exit codes mean. Stateless.
"""

from __future__ import annotations

import os

from pcloud.agent.operation import (
    DONE,
    ERROR,
    NO_PRIVILEGE,
    NOT_INSTALLED,
    NOT_RUNNING,
    OK,
    REASON_PREFIX,
    Result,
    exit_reason,
)

OCF_ROOT = os.environ.get("OCF_ROOT", "/usr/lib/ocf")
LSB_ROOT = os.environ.get("PCLOUD_LSB_ROOT", "/etc/init.d")
OWN_AGENTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ocf")
"""OCF agents that come with ours, `PROVIDER/TYPE`; looked for after those of the guest."""

MARK = "PCLOUD_RESOURCE"
"""Environment variable that an LSB service's processes inherit, so that `watch` finds them."""

_HIDDEN = (
    "PYTHONPATH",
    "NOTIFY_SOCKET",
    "PCLOUD_REMOTED_OPTIONS",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "JOURNAL_STREAM",
    "INVOCATION_ID",
)


def base_environment() -> dict[str, str]:
    """Return what every agent inherits: our environment without what concerns only us."""
    environment = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
    environment.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return environment


def _safe(name: str) -> bool:
    return bool(name) and "/" not in name and "\0" not in name and name not in (".", "..")


def find_ocf(provider: str, agent: str) -> str | None:
    """Return the path of an OCF agent, or None."""
    if _safe(provider) and _safe(agent):
        for root in (OCF_ROOT + "/resource.d", OWN_AGENTS):
            path = f"{root}/{provider}/{agent}"
            if os.path.isfile(path):
                return path
    return None


def find_lsb(agent: str) -> str | None:
    """Return the path of an init script, or None."""
    path = f"{LSB_ROOT}/{agent}"
    return path if _safe(agent) and os.path.isfile(path) else None


def ocf_environment(resource_id: str, provider: str, agent: str, parameters: dict[str, str]) -> dict[str, str]:
    """Return an OCF agent's environment (resource agent API 1.1)."""
    environment = base_environment()
    for name, value in parameters.items():
        if "\0" not in name and "=" not in name:
            key = name if name == "OCF_CHECK_LEVEL" else "OCF_RESKEY_" + name
            environment[key] = value.replace("\0", "")
    environment.update(
        OCF_RA_VERSION_MAJOR="1",
        OCF_RA_VERSION_MINOR="1",
        OCF_ROOT=OCF_ROOT,
        OCF_EXIT_REASON_PREFIX=REASON_PREFIX,
        OCF_RESOURCE_INSTANCE=resource_id,
        OCF_RESOURCE_TYPE=agent,
        OCF_RESOURCE_PROVIDER=provider,
    )
    return environment


def is_variable(name: str) -> bool:
    """Return whether a parameter's name can be an environment variable's."""
    return name.isascii() and name.isidentifier()


def lsb_environment(resource_id: str, parameters: dict[str, str]) -> dict[str, str]:
    """Return an init script's environment: parameters by their own names (upstream passes none)."""
    environment = base_environment()
    for name, value in parameters.items():
        if is_variable(name) and not name.startswith("CRM_meta_") and name != "crm_feature_set":
            environment[name] = value.replace("\0", "")
    environment[MARK] = resource_id
    return environment


def ocf_result(result: Result) -> Result:
    """Bring an OCF agent's exit code into the standard, and take its exit reason from its error output."""
    if result.status == DONE:
        if not (0 <= result.rc <= 9 or result.rc in (190, 191)):
            result.rc = ERROR
        result.reason = exit_reason(result.errors)
    return result


def lsb_result(action: str, result: Result) -> Result:
    """Translate an init script's exit code into OCF's."""
    if result.status != DONE:
        return result
    if action != "status":
        if not 0 <= result.rc <= 7:
            result.rc = ERROR
    else:
        codes = {0: OK, 1: NOT_RUNNING, 2: NOT_RUNNING, 3: NOT_RUNNING, 150: NOT_INSTALLED, 151: NO_PRIVILEGE}
        result.rc = codes.get(result.rc, ERROR)
    return result


_LSB_TAGS = (
    ("# Provides:", "Provides", "Provides"),
    ("# Required-Start:", "Required-Start", "Required-Start"),
    ("# Required-Stop:", "Required-Stop", "Required-Stop"),
    ("# Should-Start:", "Should-Start", "Should-Start"),
    ("# Should-Stop:", "Should-Stop", "Should-Stop"),
    ("# Default-Start:", "Default-Start", "Default-Start"),
    ("# Default-Stop:", "Default-Stop", "Default-Stop"),
)


def lsb_metadata(path: str, agent: str) -> Result:
    """Return OCF meta-data made from an init script's comment header."""
    from pcloud.wire.messages import escape

    found: dict[str, str] = {}
    short = agent
    try:
        with open(path, encoding="utf-8", errors="replace") as script:
            for line in script.read(65536).splitlines():
                if line.startswith("### END INIT INFO"):
                    break
                if line.startswith("# Short-Description:"):
                    short = line.split(":", 1)[1].strip()
                for prefix, name, _title in _LSB_TAGS:
                    if line.startswith(prefix):
                        found[name] = line.split(":", 1)[1].strip()
    except OSError as error:
        return Result(NOT_INSTALLED, DONE, f"{path}: {error.strerror}")
    name = escape(agent)
    special = "".join(f"    <{tag}>{escape(text)}</{tag}>\n" for tag, text in found.items())
    return Result(
        OK,
        output=(
            f'<?xml version="1.0"?>\n<resource-agent name="{name}" version="0.1">\n  <version>1.1</version>\n'
            f'  <longdesc lang="en">{escape(short)}</longdesc>\n  <shortdesc lang="en">{escape(short)}</shortdesc>\n'
            '  <parameters/>\n  <actions>\n    <action name="meta-data" timeout="5"/>\n'
            '    <action name="start" timeout="15"/>\n'
            '    <action name="stop" timeout="15"/>\n    <action name="status" timeout="15"/>\n'
            '    <action name="restart" timeout="15"/>\n    <action name="force-reload" timeout="15"/>\n'
            '    <action name="monitor" timeout="15" interval="15"/>\n  </actions>\n'
            f'  <special tag="LSB">\n{special}  </special>\n</resource-agent>\n'
        ),
    )
