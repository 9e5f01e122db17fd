"""Images in a folder instead of real ones; builds take as long as the image's name says, and fail when it says so."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from pcloud.cpe.keys import Keys
from pcloud.cpe.ports import ImportRequest, Jeos, Report
from pcloud.environment.infrastructure import Identity, Image
from pcloud.images.imported import ImportedImage, ImportedImages
from pcloud.model.deployable import Assembly
from pcloud.model.errors import NotFound, Problem, Unavailable


class FolderImages:
    """`bookworm` is there at once, `trixie` takes a second, `jammy` fails, `noble` never ends."""

    version = ""
    """Of what would build an image now; what is `held` was built by another one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.builds = folder / "builds.log"
        self.imports = ImportedImages(folder)

    def key(self, assembly: Assembly) -> str:
        return f"{assembly.image}-{'-'.join(assembly.packages)}"

    def ready(self, assembly: Assembly) -> Image | None:
        key = self.key(assembly)
        if assembly.image in self.imported():
            return self.imports.find(assembly.image, assembly.arch)
        if assembly.image == "bookworm" or (self.folder / key).exists():
            return Image(name=assembly.image, digest=key + self.version)
        return None

    def wish(self, assembly: Assembly) -> str:
        return self.key(assembly)

    def held(self, digest: str) -> Image | None:
        return Image(name="held", digest=digest)

    async def build(self, assembly: Assembly, report: Report) -> Image:
        key = self.key(assembly)
        with self.builds.open("a") as file:
            file.write(f"{key}\n")
        if assembly.image == "jammy":
            report(0.2, "downloading")
            raise Unavailable(Problem(code="MIRROR_DOWN", message="the mirror does not answer"))
        if assembly.image == "noble":
            report(0.5, "waiting for the mirror")
            await asyncio.get_running_loop().create_future()
        while (self.folder / "hold").exists():  # a test wants to see that it builds
            report(0.0, "held")
            await asyncio.sleep(0.05)
        for step in range(10):
            report(step / 10, f"step {step}")
            await asyncio.sleep(0.1)
        (self.folder / key).write_text("image")
        return Image(name=assembly.image, digest=key)

    async def jeos(self) -> Sequence[Jeos]:
        return [
            Jeos(name=name, arch="x86_64", state="ready" if (self.folder / f"{name}-").exists() else "absent")
            for name in ("bookworm", "trixie", "jammy")
        ] + [Jeos(name=one.name, arch=one.arch, state="ready", size=one.size) for one in self.imports.list()]

    async def build_jeos(self, name: str, arch: str, report: Report) -> None:
        await self.build(Assembly(name="x", image=name), report)

    async def delete_jeos(self, name: str, arch: str) -> None:
        if name in self.imported():
            await self.imports.delete(name, arch)
            return
        path = self.folder / f"{name}-"
        if not path.exists():
            raise NotFound(Problem(code="NO_SUCH_JEOS", message="there is none"))
        path.unlink()

    def imported(self) -> Mapping[str, str]:
        return {one.name: one.like for one in self.imports.list()}

    async def import_image(self, wanted: ImportRequest, content: AsyncIterator[bytes]) -> Jeos:
        manifest = ImportedImage(name=wanted.name, arch=wanted.arch, digest=wanted.digest, like=wanted.like)
        made = await self.imports.receive(manifest, content, size=wanted.size)
        return Jeos(name=made.name, arch=made.arch, state="ready", size=made.size)

    def keys(self, hostname: str) -> Keys:
        return Keys(
            identity=Identity(hostname=hostname, agent_key=secrets.token_bytes(16)), private_key=secrets.token_hex(16)
        )
