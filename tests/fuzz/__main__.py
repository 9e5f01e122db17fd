"""`python -m tests.fuzz [SECONDS] [SEED]`: mutate the corpus and feed it to every target in turn. A finding is kept as
`corpus/found-…` and ends the run with exit code 1."""

from __future__ import annotations

import hashlib
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from pcloud.agent.loop import set_log_level
from tests.fuzz import targets

CORPUS = Path(__file__).parent / "corpus"
WORDS = [
    b"lrmd_rsc_id",
    b"lrmd_op",
    b'="',
    b"<",
    b"/>",
    b"&#0;",
    b"&#xD800;",
    b"\0",
    b"-1",
    b"99999999999999999999",
    b"4294967295",
]
WORDS += [
    b"<!DOCTYPE a>",
    b"<attributes>",
    b"monitor",
    b"stop",
    b"systemd",
    b"service",
    b"../../x",
    b"\xff\xfe",
    b"%n",
    b"\n",
]


def mutate(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Return a changed form of one input."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(len(out) + 1)
        kind = chance.randrange(7)
        if kind == 0 and out:
            out[at % len(out)] = chance.randrange(256)
        elif kind == 1 and out:
            out[at % len(out)] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del out[at : at + chance.choice((1, 2, 8, 64))]
        elif kind == 3:
            out[at:at] = chance.choice(WORDS)
        elif kind == 4:
            out[at:at] = out[at : at + chance.choice((4, 32, 200))] * chance.choice((1, 2, 30))
        elif kind == 5:
            other = chance.choice(others)
            begin = chance.randrange(len(other) + 1)
            out[at:at] = other[begin : begin + chance.choice((4, 40, 400))]
        else:
            out = out[: at or 1]
    return bytes(out[:200_000])


def fuzz(seconds: float, seed: int) -> int:
    """Run; return how many inputs were tried, or -1 after a finding."""
    set_log_level(0)  # the agent tells of every hostile input
    chance = random.Random(seed)
    corpus = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
    with tempfile.TemporaryDirectory() as folder:
        tried = 0
        every = [
            targets.frames,
            targets.xml,
            targets.bus,
            targets.Agent(Path(folder)),
            targets.Ipc(),
            targets.Session(),
        ]
        # First everything as it is: what was found once must not come back.
        inputs = iter([*corpus])
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            data = next(inputs, None)
            if data is None:
                data = mutate(chance, chance.choice(corpus), corpus)
            for target in every:
                begun = time.process_time()
                try:
                    target(data)
                    assert time.process_time() - begun < 5, "too slow"
                except Exception:  # noqa: BLE001 - any exception that a target does not expect is what we look for
                    traceback.print_exc()
                    name = CORPUS / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
                    name.write_bytes(data)
                    print(f"{target}: kept as {name}", file=sys.stderr)
                    return -1
            tried += 1
    return tried


if __name__ == "__main__":
    wanted = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    first = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    print(f"seed {first}")
    count = fuzz(wanted, first)
    print(f"{count} inputs tried" if count >= 0 else "found something")
    sys.exit(count < 0)
