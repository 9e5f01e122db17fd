"""What a systemd unit may use: limits are set, changed and taken away by systemd, while the unit runs or not.

Owns: the properties of `_PROPERTIES` at run time, which systemd keeps in `/run/systemd/system.control/UNIT.d/50-*.conf`.
What is wanted no more is removed there, so that the limits of the unit's own file count again. Callbacks in the loop.
Imported when a unit is first limited.
"""

from __future__ import annotations

import os

from pcloud.agent.dbus import DBusError, put
from pcloud.agent.systemd import SERVICE, Systemd

TYPE_CHECKING = False  # these modules would cost memory in every guest
if TYPE_CHECKING:
    from collections.abc import Callable

    Done = Callable[[str], None]

LIMITS = "CRM_meta_pcloud_limits"
"""Parameter of the action `limit`: `memory=MIB cpus=CORES tasks=NUMBER`, those that are wanted."""
CONTROL = "/run/systemd/system.control"
GROUPS = "/sys/fs/cgroup"
_MIB = 1024 * 1024
_PROPERTIES = {
    "memory": ("MemoryMax", "MemoryMax", "memory", _MIB),
    "cpus": ("CPUQuotaPerSecUSec", "CPUQuota", "cpu", 1_000_000),
    "tasks": ("TasksMax", "TasksMax", "pids", 1),
}
"""Word → systemd's property, its name in files, the kernel's controller, and what one of the word is in the property."""


def parse(text: str) -> dict[str, float]:
    """Return the wanted limits by word. ValueError."""
    wanted = {}
    for part in text.split():
        word, _, value = part.partition("=")
        if word not in _PROPERTIES or not 0 < float(value) < 1e9:
            raise ValueError(f"{part!r} is no limit")
        wanted[word] = float(value)
    return wanted


def bound(systemd: Systemd, unit: str, text: str, done: Done) -> None:
    """Bring a unit to the limits of a text and to no others; `done` gets why that can not be, or nothing. It may come at
    once; then nothing was changed."""
    try:
        wanted = parse(text)
    except ValueError as error:
        done(str(error))
        return
    lacking = [word for word in wanted if not has_controller(_PROPERTIES[word][2])]
    if lacking:
        done(f"systemd in this guest can not limit {' and '.join(lacking)}: it has no such control groups")
        return

    def on_group(value: object, _error: DBusError | None) -> None:
        taken = used(value) if isinstance(value, str) and value and "memory" in wanted else 0
        if "memory" in wanted and taken > wanted["memory"] * _MIB:
            memory = f"{wanted['memory']:g} MiB"
            done(f"it uses {-(-taken // _MIB)} MiB of memory now and can not be limited to {memory}")
        else:
            _remove(systemd, unit, wanted, done)

    systemd.unit_property(unit, SERVICE, "ControlGroup", on_group)


def _remove(systemd: Systemd, unit: str, wanted: dict[str, float], done: Done) -> None:
    """Remove what is wanted no more, let systemd read that, then set the rest."""
    removed = False
    for word, (_, name, _, _) in _PROPERTIES.items():
        if word not in wanted:
            try:
                os.unlink(f"{CONTROL}/{unit}.d/50-{name}.conf")
                removed = True
            except FileNotFoundError:
                pass
            except OSError as error:
                done(f"a limit of {unit} can not be removed: {error.strerror}")
                return
    if removed:
        systemd.manager("Reload", "", (), lambda _values, error: _set(systemd, unit, wanted, done, error))
    else:
        _set(systemd, unit, wanted, done, None)


def _set(systemd: Systemd, unit: str, wanted: dict[str, float], done: Done, failed: DBusError | None) -> None:
    if failed is not None or not wanted:
        done(str(failed) if failed is not None else "")
        return
    values = [(_PROPERTIES[word][0], int(value * _PROPERTIES[word][3])) for word, value in wanted.items()]
    systemd.manager(
        "SetUnitProperties",
        "sba(sv)",
        properties(unit, values),
        lambda _values, error: done(str(error) if error is not None else ""),
    )


def properties(unit: str, values: list[tuple[str, int]]) -> bytes:
    """Return the arguments of `SetUnitProperties`, for as long as the guest runs, of unsigned 64-bit properties."""
    items = bytearray()
    for name, value in values:
        put(items, "s", name, 8)
        put(items, "g", "t")
        put(items, "t", value)
    data = bytearray()
    put(data, "s", unit)
    put(data, "b", True)
    put(data, "u", len(items))
    data += b"\0" * (-len(data) % 8)
    return bytes(data + items)


def has_controller(name: str) -> bool:
    """Tell whether the guest's systemd has a controller, in control groups of either version."""
    try:
        with open(f"{GROUPS}/cgroup.controllers", encoding="ascii") as file:
            return name in file.read().split()
    except OSError:
        return os.path.exists(f"{GROUPS}/{name}/cgroup.procs")


def used(group: str) -> int:
    """Return the bytes that a unit could not give back at once: without what it read from or wrote to files."""
    for folder, total, prefix in (
        (f"{GROUPS}/memory{group}", "memory.usage_in_bytes", "total_"),
        (GROUPS + group, "memory.current", ""),
    ):
        try:
            with open(f"{folder}/{total}", encoding="ascii") as file:
                taken = int(file.read())
            with open(f"{folder}/memory.stat", encoding="ascii") as file:
                for line in file:
                    key, _, value = line.partition(" ")
                    if key in (f"{prefix}active_file", f"{prefix}inactive_file"):
                        taken -= int(value)
        except (OSError, ValueError):
            continue  # of the other version, or it does not run
        return max(0, taken)
    return 0
