"""What a systemd unit may use, set over ssh: the script that a guest runs for it, and its arguments. Pure.

As `pcloud.agent.bounds` does it: what is wanted no more is removed from the unit's run-time properties, so that the limits
of its own file count again.
"""

from __future__ import annotations

from pcloud.model.deployable import ResourceLimits

SCRIPT = """\
u=$1 g=/sys/fs/cgroup d=/run/systemd/system.control/$1.d gone=
shift
for p; do
  case $p in MemoryMax=*) c=memory ;; CPUQuota=*) c=cpu ;; *) c=pids ;; esac
  if [ -e $g/cgroup.controllers ]; then grep -qw $c $g/cgroup.controllers; else [ -e $g/$c/cgroup.procs ]; fi ||
    { echo "systemd in this guest has no control group for ${p%%=*}" >&2; exit 1; }
  if [ $c = memory ]; then
    h=$(systemctl show -p ControlGroup --value -- "$u") f= used= key= value=
    [ -z "$h" ] || for f in "$g/memory$h" "$g$h"; do [ -e "$f/memory.stat" ] && break; done
    [ -n "$h" ] && read -r used 2>/dev/null < "$f/memory.usage_in_bytes" || read -r used 2>/dev/null < "$f/memory.current"
    x=; [ ! -e "$f/memory.usage_in_bytes" ] || x=total_
    [ -z "$used" ] || while read -r key value; do
      case $key in ${x}active_file|${x}inactive_file) used=$((used - value)) ;; esac
    done < "$f/memory.stat"
    [ "${used:-0}" -le "${p#*=}" ] ||
      { echo "it uses $((used / 1048576 + 1)) MiB of memory now, more than it may" >&2; exit 1; }
  fi
done
for n in MemoryMax CPUQuota TasksMax; do
  case " $* " in *" $n="*) continue ;; esac
  [ ! -e "$d/50-$n.conf" ] || { rm -f "$d/50-$n.conf" && gone=1; } || exit 1
done
[ -z "$gone" ] || systemctl daemon-reload || exit 1
[ $# = 0 ] || exec systemctl set-property --runtime -- "$u" "$@"
"""
"""Takes a unit, and properties as systemd has them. A constant: nothing that a user wrote is read by the guest's shell."""


def properties(limits: ResourceLimits) -> list[str]:
    """Return the script's further arguments, `PROPERTY=VALUE` of each limit that is wanted."""
    given = {
        "MemoryMax": str(limits.memory << 20) if limits.memory else "",
        "CPUQuota": f"{limits.cpus * 100:.2f}%" if limits.cpus else "",
        "TasksMax": str(limits.tasks) if limits.tasks else "",
    }
    return [f"{name}={value}" for name, value in given.items() if value]
