"""Real builds, as root: JEOS, assembly layers, interruption at any time."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from pcloud.images.assembly import AssemblyImageSpec, ImageFile
from pcloud.images.definitions import definition
from pcloud.images.sandbox import BuildFailed
from pcloud.images.store import DEFAULT_ROOT, ImageStore
from pcloud.infrastructure import lxc_process
from pcloud.model.image import Image

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can build images"),
    pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="mmdebstrap is not installed"),
    pytest.mark.timeout(1800),
]
PATIENCE = 600.0
"""Seconds until a build has begun: another worker's may come first."""


@pytest.fixture(scope="module")
def bookworm() -> Image:
    return asyncio.run(ImageStore().build_jeos("bookworm", "x86_64"))


@pytest.fixture
def store(tmp_path: Path, bookworm: Image) -> ImageStore:
    """A store of its own that shares the JEOS and the package cache with the machine's."""
    return sharing(tmp_path / "images", bookworm)


def sharing(root: Path, bookworm: Image) -> ImageStore:
    (root / "jeos").mkdir(parents=True)
    (root / "jeos" / Path(bookworm.path).name).symlink_to(bookworm.path)
    share_cache(root)
    return ImageStore(root)


def share_cache(root: Path) -> None:
    """Share fetched packages, and with them the lock on what apt does with them."""
    (DEFAULT_ROOT / "cache").mkdir(parents=True, exist_ok=True)
    (root / "cache").symlink_to(DEFAULT_ROOT / "cache")


def spec(**changes: object) -> AssemblyImageSpec:
    return AssemblyImageSpec(jeos="bookworm", agent="", **changes)  # type: ignore[arg-type]


def nothing_left(root: Path) -> None:
    assert not list(root.glob("*/.new-*"))
    assert str(root) not in Path("/proc/self/mounts").read_text()
    for entry in Path("/proc").glob("[0-9]*"):
        process = lxc_process.find_process(int(entry.name))
        if process is not None and process.pid != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            assert str(root).encode() not in words, words


async def test_jeos_is_fit_for_guests(bookworm: Image) -> None:
    root = Path(bookworm.layers[0])
    assert not list(root.glob("etc/ssh/ssh_host_*"))
    assert (root / "etc/machine-id").read_bytes() == b""
    assert (root / "usr/sbin/sshd").exists()
    assert (root / "usr/bin/python3").exists()
    assert not list(root.glob("usr/share/man/man1/*"))
    assert not list(root.glob("var/cache/apt/archives/*.deb"))
    assert "root:*:" in (root / "etc/shadow").read_text()


async def test_second_build_reuses(bookworm: Image) -> None:
    steps: list[str] = []
    began = Path(bookworm.path).stat().st_mtime
    again = await ImageStore().build_jeos("bookworm", "x86_64", lambda _, words: steps.append(words))
    assert again == bookworm
    assert steps == ["bookworm x86_64 is ready"]
    assert Path(bookworm.path).stat().st_mtime == began


async def test_assembly_layer(store: ImageStore) -> None:
    wanted = spec(
        packages=("chrony",),
        files=(
            ImageFile(path="/srv/new folder/it's", content="a\n$(id)\n", mode=0o640, owner="_chrony:_chrony"),
            ImageFile(path="/etc/motd", content="hello\n"),
        ),
        commands=(("sh", "-c", "id -u > /srv/uid"), ("touch", "/srv/$HOME")),
        disable_units=("chrony.service", "no-such.service"),
    )
    fractions: list[float] = []
    image = await store.build_assembly(wanted, lambda fraction, _: fractions.append(fraction))
    layer = Path(image.layers[-1])
    file = layer / "srv/new folder/it's"
    assert file.read_text() == "a\n$(id)\n"
    assert file.stat().st_mode & 0o7777 == 0o640
    assert file.stat().st_uid != 0
    assert (layer / "srv/uid").read_text() == "0\n"
    assert (layer / "srv/$HOME").exists()
    assert (layer / "usr/sbin/chronyd").exists()
    assert not list(layer.glob("etc/systemd/system/multi-user.target.wants/chrony*"))
    assert not list(layer.rglob("policy-rc.d"))
    assert not list(layer.rglob("*.deb"))
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert await store.build_assembly(wanted) == image
    nothing_left(store.root)


async def test_links_in_the_image_do_not_lead_to_the_host(store: ImageStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    wanted = spec(
        files=(ImageFile(path="/srv/ok", content="x"),),
        commands=(("ln", "-s", str(outside), "/srv/link"), ("sh", "-c", "echo x > /srv/link/file || true")),
    )
    image = await store.build_assembly(wanted)
    assert (Path(image.layers[-1]) / "srv/link").is_symlink()
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"packages": ("no-such-package-at-all",)}, "no-such-package-at-all"),
        ({"commands": (("false",),)}, "false"),
        ({"commands": (("no-such-program",),)}, "no-such-program"),
    ],
)
async def test_a_failed_build_says_why_and_leaves_nothing(
    store: ImageStore, change: dict[str, object], words: str
) -> None:
    with pytest.raises(BuildFailed, match=words):
        await store.build_assembly(spec(**change))
    assert store.list_assembly_images() == []
    nothing_left(store.root)


async def test_a_cancelled_build_ends_everything(store: ImageStore) -> None:
    started = asyncio.Event()

    def progress(fraction: float, words: str) -> None:
        if words == "running sleep":
            started.set()

    task = asyncio.create_task(store.build_assembly(spec(commands=(("sleep", "4321"),)), progress))
    await asyncio.wait_for(started.wait(), PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.list_assembly_images() == []
    nothing_left(store.root)


async def test_a_killed_builder_leaves_no_half_image_and_the_next_takes_up(store: ImageStore, tmp_path: Path) -> None:
    """kill -9 in the middle of a JEOS build: its programs end with it, and the same call later makes the image."""
    root = tmp_path / "killed"
    root.mkdir()
    share_cache(root)
    script = """
import asyncio, sys
from pathlib import Path
from pcloud.images.store import ImageStore
asyncio.run(ImageStore(Path(sys.argv[1])).build_jeos("bookworm", "x86_64", lambda f, m: print(f, m, flush=True)))
"""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(root), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while float((await child.stdout.readline()).split()[0]) < 0.3:
            pass
    child.send_signal(signal.SIGKILL)
    await child.wait()
    await child.stdout.read()
    store = ImageStore(root)
    assert store.list_jeos() == []
    half = root / "jeos" / f".new-bookworm-x86_64-{definition('bookworm', 'x86_64').digest('x86_64')}"
    assert half.is_dir()
    both = await asyncio.gather(store.build_jeos("bookworm", "x86_64"), store.build_jeos("bookworm", "x86_64"))
    assert both[0] == both[1]
    assert (Path(both[0].layers[0]) / "usr/sbin/sshd").exists()
    nothing_left(root)
    await store.delete_jeos("bookworm", "x86_64")
    assert list((root / "jeos").iterdir()) == []


class Waiting:
    """Takes a build's progress; tells when it waits for another one."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    def __call__(self, fraction: float, words: str) -> None:
        if words == "waiting for another build of this image":
            self.begun.set()


async def test_stores_that_share_fetched_packages_take_turns(
    store: ImageStore, bookworm: Image, tmp_path: Path
) -> None:
    """apt lets only one use them, and fails at once when another does."""
    other, waits = sharing(tmp_path / "other", bookworm), Waiting()
    async with store._lock("bookworm-x86_64", lambda *_: None):
        task = asyncio.create_task(other.build_assembly(spec(commands=(("true",),)), waits))
        async with asyncio.timeout(PATIENCE):
            await waits.begun.wait()
        assert not task.done()
        assert other.list_assembly_images() == []
    assert Path((await task).layers[-1]).is_dir()


async def test_what_a_killed_builder_left_running_is_waited_for(store: ImageStore) -> None:
    """Its programs die with it only once they were told to, and then some time later. Until then nobody builds beside them:
    they hold apt's locks, and write where the next build begins."""
    script = """
import asyncio, sys
from pathlib import Path
from pcloud.images import sandbox
from pcloud.images.assembly import AssemblyImageSpec
from pcloud.images.store import ImageStore
sandbox.ENTER = sandbox.ENTER[sandbox.ENTER.index("unshare"):]  # killed before it could ask for their end
spec = AssemblyImageSpec(jeos="bookworm", agent="", commands=(("sh", "-c", "echo $$ > /srv/pid; exec sleep 86400"),))
asyncio.run(ImageStore(Path(sys.argv[1])).build_assembly(spec, lambda f, m: print(m, flush=True)))
"""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(store.root), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while (await child.stdout.readline()) != b"running sh\n":
            pass
        while not list(store.root.glob("assemblies/.new-*/layer/srv/pid")):
            await asyncio.sleep(0.05)
    sandboxes = lxc_process.children(child.pid)
    assert len(sandboxes) == 1
    child.kill()
    await child.wait()
    waits = Waiting()
    task = asyncio.create_task(store.build_assembly(spec(commands=(("true",),)), waits))
    try:
        async with asyncio.timeout(PATIENCE):
            await waits.begun.wait()
        assert not task.done()
    finally:
        os.kill(sandboxes[0], signal.SIGKILL)
    assert Path((await task).layers[-1]).is_dir()
    # What is left of the other is removed by who builds that one.
    for half in store.root.glob("assemblies/.new-*"):
        shutil.rmtree(half)
    nothing_left(store.root)
