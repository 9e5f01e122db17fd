"""Start of 100 guests through the LXC driver, against a bare loop over `lxc-start` with the same configurations.

Both start the same image with an init that only waits, so that what is compared is the cost of starting and not the boot of
100 operating systems on this machine's cores. Ours includes making the guests (folder, identity, address, configuration);
the loop finds everything prepared. Needs root, LXC and the bookworm JEOS (built when it is missing).
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import Row
from pcloud.environment.infrastructure import GuestSpec
from pcloud.images.identity import make_identity
from pcloud.images.store import ImageStore
from pcloud.infrastructure.lxc import LxcInfrastructure
from pcloud.infrastructure.lxc_settings import LxcSettings
from pcloud.model.image import Image

COUNT = 100
BUDGET = 1.5
INIT = "#!/bin/sh\nexec sleep infinity\n"


def run() -> Iterator[Row]:
    """Yield `start-100`, in seconds."""
    jeos = asyncio.run(ImageStore().build_jeos("bookworm", "x86_64"))
    folder = Path(tempfile.mkdtemp(prefix="pcloud-bench-guests-", dir="/var/tmp"))
    try:
        init = folder / "layer" / "usr" / "sbin" / "init"
        init.parent.mkdir(parents=True)
        init.write_text(INIT)
        init.chmod(0o755)
        image = Image(name="waiting", digest="waiting", layers=(*jeos.layers, str(folder / "layer")))
        ours, peer = asyncio.run(_measure(folder / "state", image))
    finally:
        shutil.rmtree(folder)
    yield Row.of("start-100", ours, peer, BUDGET)


async def _measure(state: Path, image: Image) -> tuple[float, float]:
    driver = LxcInfrastructure(LxcSettings(state=str(state)))
    # Keys are made when an assembly is, long before its guest starts.
    specs = [
        GuestSpec(
            guest_id=f"bench.g{i}",
            deployable="bench",
            assembly=f"g{i}",
            image=image,
            identity=make_identity(f"g{i}").identity,
            digest="1",
        )
        for i in range(COUNT)
    ]
    try:
        began = time.perf_counter()
        await asyncio.gather(*(driver.start(spec) for spec in specs))
        ours = time.perf_counter() - began
        print(f"ours: {ours:.2f} s", file=sys.stderr)
        await asyncio.gather(*(driver.destroy(spec.guest_id) for spec in specs))
        began = time.perf_counter()
        for spec in specs:
            subprocess.run(["lxc-start", "-P", str(state / "guests"), "-n", spec.guest_id, "-d"], check=True)
        peer = time.perf_counter() - began
        print(f"bare loop: {peer:.2f} s", file=sys.stderr)
    finally:
        for spec in specs:
            # The bare loop wrote no pid file; LXC itself ends what it started.
            subprocess.run(
                ["lxc-stop", "-k", "-P", str(state / "guests"), "-n", spec.guest_id], check=False, capture_output=True
            )
        await asyncio.gather(*(driver.delete(spec.guest_id) for spec in specs))
        await driver.close()
    return ours, peer
