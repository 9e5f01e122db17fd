"""The folder store of images on this host.

    jeos/NAME-ARCH-DIGEST/{rootfs/, manifest.json}      assemblies/DIGEST/{layer/, manifest.json}
    cache/NAME-ARCH/{archives/, lists/, lock}           logs/

An image is built under a name that begins with `.new-` and gets its final name by one rename, after everything is on disk:
under a final name there is never a half image. Concurrency: any number of processes; one build at a time for each JEOS name
and architecture, held by a file lock that dies with its process and the programs that it runs. Who waits for the lock finds
the finished image. The lock lies with the packages that are fetched, which apt lets only one use: stores may share them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from pcloud.images import apt, jeos, sandbox
from pcloud.images.assembly import AssemblyImageSpec, check, plan
from pcloud.images.definitions import JeosDefinition, definition, definitions
from pcloud.images.sandbox import BuildFailed, Progress
from pcloud.model.errors import Conflict, NotFound, Unavailable
from pcloud.model.image import Image

DEFAULT_ROOT = Path("/var/cache/pcloud/images")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`manifest.json` of an image."""

    name: str
    kind: str
    """`jeos` or `assembly`."""
    arch: str
    digest: str
    jeos: str = ""
    """Folder name of the JEOS below an assembly's layer."""
    created: float = 0.0
    seconds: float = 0.0
    """What the build took."""
    size: int = 0
    """Bytes on disk, without those of a JEOS below."""


def _ignore(fraction: float, message: str) -> None:
    return None


class ImageStore:
    """Builds, finds and removes images under one root folder."""

    def __init__(self, root: Path = DEFAULT_ROOT) -> None:
        self.root = root.absolute()

    def definitions(self) -> dict[str, JeosDefinition]:
        """Return the JEOS definitions by name."""
        return definitions()

    def list_jeos(self) -> list[Manifest]:
        """Return the JEOS images that are built, by name."""
        return self._list("jeos")

    def list_assembly_images(self) -> list[Manifest]:
        """Return the assembly images that are built."""
        return self._list("assemblies")

    def find_jeos(self, name: str, arch: str) -> Image | None:
        """Return the JEOS image that fits its definition, None when it is not built. NotFound for an unknown name."""
        digest = definition(name, arch).digest(arch)
        folder = self.root / "jeos" / f"{name}-{arch}-{digest}"
        if not (folder / "manifest.json").is_file():
            return None
        return Image(name=name, digest=digest, path=str(folder), layers=(str(folder / "rootfs"),))

    def find_assembly(self, spec: AssemblyImageSpec) -> Image | None:
        """Return the image of a spec, None when it is not built."""
        base = self.find_jeos(spec.jeos, spec.arch)
        folder = self.root / "assemblies" / spec.digest
        if base is None or not (folder / "manifest.json").is_file():
            return None
        return Image(name=spec.jeos, digest=spec.digest, path=str(folder), layers=(*base.layers, str(folder / "layer")))

    def held_assembly(self, digest: str) -> Image | None:
        """Return a built assembly image by its digest, whichever version built it; None when it is gone."""
        folder = self.root / "assemblies" / digest
        try:
            manifest = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
        except (OSError, msgspec.MsgspecError):
            return None
        base = self.root / "jeos" / manifest.jeos / "rootfs"
        if not manifest.jeos or not base.is_dir():
            return None
        return Image(name=manifest.name, digest=digest, path=str(folder), layers=(str(base), str(folder / "layer")))

    async def build_jeos(self, name: str, arch: str, progress: Progress = _ignore) -> Image:
        """Return the JEOS image, built now where it is missing. Cancelling ends the build; the next one goes on with the
        packages that were fetched. NotFound, Unavailable (no mirror, not root, a program missing) or BuildFailed."""
        wanted = definition(name, arch)
        found = self.find_jeos(name, arch)
        if found is None:
            _need_root()
            async with self._lock(f"{name}-{arch}", progress) as lock:
                found = self.find_jeos(name, arch) or await self._build_jeos(wanted, arch, progress, lock)
        progress(1.0, f"{name} {arch} is ready")
        return found

    async def build_assembly(self, spec: AssemblyImageSpec, progress: Progress = _ignore) -> Image:
        """Return the image of a spec, it and the JEOS below built now where they are missing. Errors: as `build_jeos`,
        and InvalidDocument for a spec that can not be built."""
        check(spec)
        found = self.find_assembly(spec)
        if found is None:
            base = self.find_jeos(spec.jeos, spec.arch)
            share = 0.0
            if base is None:
                share = 0.6
                base = await self.build_jeos(spec.jeos, spec.arch, lambda f, m: progress(f * share, m))
            _need_root()
            async with self._lock(f"{spec.jeos}-{spec.arch}", progress) as lock:
                found = self.find_assembly(spec) or await self._build_assembly(
                    spec, base, lambda f, m: progress(share + f * (1 - share), m), lock
                )
        progress(1.0, "the image is ready")
        return found

    async def delete_jeos(self, name: str, arch: str) -> None:
        """Remove a JEOS, also those of older definitions. NotFound when there is none, Conflict when an assembly image is
        built on it."""
        async with self._lock(f"{name}-{arch}", _ignore):
            images = [m for m in self.list_jeos() if m.name == name and m.arch == arch]
            if not images:
                raise NotFound.of(
                    "UNKNOWN_JEOS", f"there is no JEOS {name} for {arch}", hint="`jeos_list` shows those there are"
                )
            folders = {f"{m.name}-{m.arch}-{m.digest}" for m in images}
            users = [m.digest for m in self.list_assembly_images() if m.jeos in folders]
            if users:
                raise Conflict.of(
                    "JEOS_IN_USE",
                    f"{len(users)} assembly image(s) are built on {name} {arch}",
                    hint="delete the assemblies first",
                )
            for folder in folders:
                await asyncio.to_thread(_remove, self.root / "jeos" / folder)

    async def delete_assembly_images(self, keep: set[str]) -> list[str]:
        """Remove the assembly images whose digest is not in `keep`, and return the digests of those removed. The caller
        knows which images guests are made from: a running guest's layers must stay."""
        removed = []
        for manifest in self.list_assembly_images():
            if manifest.digest not in keep:
                await asyncio.to_thread(_remove, self.root / "assemblies" / manifest.digest)
                removed.append(manifest.digest)
        return removed

    async def _build_jeos(self, wanted: JeosDefinition, arch: str, progress: Progress, lock: int) -> Image:
        digest = wanted.digest(arch)
        began = time.time()
        async with self._building("jeos", f"{wanted.name}-{arch}-{digest}") as (folder, log):
            rootfs = folder / "rootfs"
            cache = self.root / "cache" / f"{wanted.name}-{arch}"
            await jeos.build_rootfs(wanted, arch, rootfs, cache, progress=progress, log=log.write, lock=lock)
            progress(0.97, "finishing")
            await asyncio.to_thread(jeos.finish_rootfs, wanted, rootfs)
            await self._seal(folder, Manifest(name=wanted.name, kind="jeos", arch=arch, digest=digest, created=began))
        found = self.find_jeos(wanted.name, arch)
        assert found is not None
        return found

    async def _build_assembly(self, spec: AssemblyImageSpec, base: Image, progress: Progress, lock: int) -> Image:
        digest = spec.digest
        began = time.time()
        cache = self.root / "cache" / f"{spec.jeos}-{spec.arch}"

        def on_line(line: str) -> None:
            if line.startswith("progress "):
                _, fraction, words = line.split(" ", 2)
                progress(float(fraction), words)

        async with self._building("assemblies", digest) as (folder, log):
            steps = plan(
                spec,
                lower=base.layers[0],
                folder=str(folder),
                archives=str(cache / "archives"),
                lists=str(cache / "lists"),
                apt_settings=await apt.settings(),
            )
            await sandbox.run(
                [sys.executable, "-P", "-m", "pcloud.images.customise"],
                stdin=msgspec.json.encode(steps),
                on_line=on_line,
                log=log.write,
                what=f"building an assembly image on {spec.jeos}",
                lock=lock,
            )
            for part in ("work", "mount"):
                await asyncio.to_thread(_remove, folder / part)
            name = Path(base.path).name
            await self._seal(
                folder,
                Manifest(name=spec.jeos, kind="assembly", arch=spec.arch, digest=digest, jeos=name, created=began),
            )
        found = self.find_assembly(spec)
        if found is None:  # the agent or the definition was changed while we built
            raise BuildFailed.of(
                "IMAGE_CHANGED", "the image's description changed while it was built", hint="build it again"
            )
        return found

    @contextlib.asynccontextmanager
    async def _building(self, kind: str, name: str) -> AsyncIterator[tuple[Path, _Log]]:
        """A folder to build in, under a temporary name (the caller holds the lock, so what is there is a dead build's)."""
        folder = self.root / kind / f".new-{name}"
        await asyncio.to_thread(_remove, folder)
        folder.mkdir(parents=True)
        folder.parent.chmod(0o755)
        log = _Log(self.root / "logs" / f"{name}.log")
        try:
            yield folder, log
        finally:
            log.close()
            await asyncio.shield(asyncio.to_thread(_remove, folder))

    async def _seal(self, folder: Path, manifest: Manifest) -> None:
        final = folder.with_name(folder.name.removeprefix(".new-"))
        size = await asyncio.to_thread(_size, folder)
        manifest = msgspec.structs.replace(manifest, seconds=round(time.time() - manifest.created, 1), size=size)
        (folder / "manifest.json").write_bytes(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        await asyncio.to_thread(os.sync)
        await asyncio.to_thread(_remove, final)  # without a manifest, else nobody would build
        await asyncio.to_thread(folder.rename, final)

    def _list(self, kind: str) -> list[Manifest]:
        found = []
        for file in sorted((self.root / kind).glob("[!.]*/manifest.json")):
            with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
                found.append(msgspec.json.decode(file.read_bytes(), type=Manifest))
        return found

    @contextlib.asynccontextmanager
    async def _lock(self, name: str, progress: Progress) -> AsyncIterator[int]:
        path = self.root / "cache" / name / "lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            told = False
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        progress(0.0, "waiting for another build of this image")
                        told = True
                    await asyncio.sleep(0.1)
            yield fd
        finally:
            os.close(fd)


def _size(folder: Path) -> int:
    """Bytes that a folder takes on disk."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            total += os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118 - a hundred thousand of them
    return total


class _Log:
    """A build's log, bounded."""

    LIMIT = 4 * 1024 * 1024

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._left = self.LIMIT

    def write(self, line: bytes) -> None:
        """Add a line while there is room."""
        self._file.write(line[: self._left])
        self._left -= min(self._left, len(line))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _need_root() -> None:
    if os.geteuid() != 0:
        raise Unavailable.of("NOT_ROOT", "only root can build images here", hint="run the daemon as root")


def _remove(folder: Path) -> None:
    """Remove a folder; first under a name that is no image's, so that a crash leaves no half image."""
    if not folder.exists():
        return
    if not folder.name.startswith("."):
        dying = folder.with_name(f".new-{folder.name}")
        shutil.rmtree(dying, ignore_errors=True)
        folder.rename(dying)
        folder = dying
    shutil.rmtree(folder)
