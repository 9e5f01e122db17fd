"""Chooses how Pacemaker's scheduler is asked on this machine."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from pcloud.environment.scheduler import SchedulerError
from pcloud.scheduler.client import WorkerScheduler, binding_available

if TYPE_CHECKING:
    from pcloud.scheduler.fallback import CrmSimulateScheduler


def open_scheduler() -> WorkerScheduler | CrmSimulateScheduler:
    """Return the fastest scheduler this machine has; its `name` says which: `library` or `crm_simulate`.

    SchedulerError when there is neither the compiled binding nor the command line. No process is started yet.
    """
    if binding_available():
        return WorkerScheduler()
    if shutil.which("crm_simulate") is not None:
        from pcloud.scheduler.fallback import CrmSimulateScheduler  # its XML library weighs, and is seldom needed

        return CrmSimulateScheduler()
    raise SchedulerError(
        "Pacemaker's scheduler is not installed: `make setup` builds the binding (Debian: pacemaker-dev), "
        "or install crm_simulate (Debian: pacemaker-cli-utils)"
    )
