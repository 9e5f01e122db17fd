"""One recorded session of a real cluster, replayed to Pacemaker's own daemon and to our agent: every difference is named.

`session.jsonl` beside this file was recorded by `recorder` between a real cluster (Pacemaker 2.1.5) and its daemon. Each
difference that may occur has its reason in `REASONS`; any other fails the test. `docs/pacemaker-remote.md` tells users.
"""

import json
import os
import signal
from pathlib import Path

import pytest

from pcloud.wire import messages as m
from tests.peers.recorder import replay
from tests.remoted import Daemon

pytestmark = pytest.mark.real

# Different in every run, by their nature.
VOLATILE = {
    "lrmd_clientid": "a random identity",
    "lrmd_run_time": "the clock",
    "lrmd_rcchange_time": "the clock (of a change we tell a second later than of the result before it)",
    "lrmd_exec_time": "a duration",
    "lrmd_queue_time": "a duration",
    "lrmd_remote_msg_id": "compared as the pairing of replies with requests, not here",
}
REASONS = {
    "lrmd_origin": "names the C function that made the message; ours says `pcloud`",
    "lrmd_protocol_version": "we speak 1.2 where 2.1.5 speaks 1.1; a peer that asks for 1.1 is answered 1.1",
    "lrmd_run_time is 0": "2.1.5 tells no time of the later runs of a recurring operation; ours does",
    "uptime": "part of protocol 1.2, which 2.1.5 does not speak",
    "lrmd_rsc_output": "2.1.5 writes line breaks in output as backslash and n; ours as line breaks",
    "lrmd_pcloud_signal": "ours tells that a process's end triggered the monitor; others ignore it",
}


def load() -> list[tuple[str, str]]:
    lines = (Path(__file__).parent / "session.jsonl").read_text().splitlines()
    return [(mark, text) for mark, text in map(json.loads, lines)]


def differences(one: m.Element, other: m.Element) -> set[str]:
    """Names of the attributes (and children) that differ, apart from the volatile ones."""
    found = {
        name
        for name in one.attributes.keys() | other.attributes.keys()
        if name not in VOLATILE and one.attributes.get(name) != other.attributes.get(name)
    }
    if (one.get("lrmd_run_time") == "0") != (other.get("lrmd_run_time") == "0"):
        found.add("lrmd_run_time is 0")
    if one.tag != other.tag or len(one.children) != len(other.children):
        found.add(f"<{one.tag}>")
    for a, b in zip(one.children, other.children, strict=False):
        found |= differences(a, b)
    return found


def key(message: m.Element) -> tuple[str, ...]:
    """What makes two answers the same one: kind, operation, resource, action, interval, call."""
    names = ("lrmd_remote_msg_type", "lrmd_op", "lrmd_rsc_id", "lrmd_rsc_action", "lrmd_rsc_interval", "lrmd_callid")
    return (message.tag, *(message.get(name) for name in names))


def fail(daemon: Daemon, text: str) -> bool:
    """The recorded failure happens again: the service is killed where the recorded agent noticed that."""
    notice = m.parse(text.encode())
    known = (notice.get("lrmd_exec_rc"), notice.get("lrmd_exec_op_status"), notice.get("lrmd_rsc_interval"))
    if known == ("7", "0", "2000"):
        os.kill(daemon.service_pid(), signal.SIGKILL)
        return True
    return False


def test_answers_to_a_recorded_cluster_session(tmp_path):
    session = load()
    answers = {}
    for kind in ("pacemaker", "pcloud"):
        daemon = Daemon(kind, tmp_path / kind)
        daemon.start()
        try:
            # The recorded agent keeps its state where this run has its own.
            mine = [(mark, text.replace("@STATE@", str(daemon.state))) for mark, text in session]
            answers[kind] = replay(daemon.port, daemon.key, mine, lambda text, daemon=daemon: fail(daemon, text))
            for message in answers[kind]:
                for element in m.iterate(message):
                    for name, value in element.attributes.items():
                        element.attributes[name] = value.replace(str(daemon.state), "@STATE@")
        finally:
            daemon.stop()
    theirs, ours = answers["pacemaker"], answers["pcloud"]
    assert sorted(map(key, ours)) == sorted(map(key, theirs))
    # Order: replies answer in the order of the requests; of one call the results come in the same order.
    assert [key(a) for a in ours if a.tag == m.REPLY] == [key(a) for a in theirs if a.tag == m.REPLY]
    assert [a.number("lrmd_remote_msg_id") for a in ours if a.tag == m.REPLY] == [
        a.number("lrmd_remote_msg_id") for a in theirs if a.tag == m.REPLY
    ]
    seen: dict[str, int] = {}
    left = list(theirs)
    for message in ours:
        partner = next(each for each in left if key(each) == key(message))
        left.remove(partner)
        for name in differences(message, partner):
            seen[name] = seen.get(name, 0) + 1
    unexplained = {name: count for name, count in seen.items() if name not in REASONS}
    print("differences:", seen)
    assert unexplained == {}
