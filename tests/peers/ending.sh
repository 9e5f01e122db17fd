# What the peers' scripts share: ending the daemons of a peer that is kept in $peer. Sourced by them.

# The daemons must not inherit what whoever calls this holds open, such as a lock.
for fd in /proc/$$/fd/*; do
  fd=${fd##*/}
  if ((fd > 2 && fd < 200)); then eval "exec $fd>&-"; fi
done

ours() { # PID: whether the process is one of this peer's, not another one that got the number of one that ended long ago
  grep -qaF "$peer/" "/proc/$1/cmdline" "/proc/$1/environ" 2> /dev/null
}

end_peer() { # PID_FILE...: ends the processes with all of their groups, and the Erlang port mapper that one of them started
  local pid
  end_pids "$@"
  # It stays behind in a session of its own and writes its process id nowhere. Another peer may have one, on the same port even.
  for pid in $(pidof epmd || true); do
    if ours "$pid"; then kill -9 "$pid" 2> /dev/null || true; fi
  done
}

end_pids() { # PID_FILE...: ends the processes with all of their groups
  local file pid
  local -a ending=()
  for file in "$@"; do
    [ -s "$file" ] || continue
    pid=$(tr -dc 0-9 < "$file")
    if ours "$pid"; then
      kill "$pid" 2> /dev/null || true
      ending+=("$pid")
    fi
    rm -f "$file"
  done
  for pid in "${ending[@]}"; do
    for _ in $(seq 150); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
    kill -9 -- "-$pid" 2> /dev/null || kill -9 "$pid" 2> /dev/null || true
  done
}
