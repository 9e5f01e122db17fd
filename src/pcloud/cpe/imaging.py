"""The `Images` port: the image store of the room `images`, seen as the daemon needs it."""

from __future__ import annotations

from collections.abc import Sequence

from pcloud.cpe.keys import Keys
from pcloud.cpe.ports import Jeos, Report
from pcloud.environment.infrastructure import Image
from pcloud.images.assembly import AssemblyImageSpec, ImageFile
from pcloud.images.identity import make_identity
from pcloud.images.store import ImageStore
from pcloud.model.deployable import Assembly
from pcloud.model.errors import NotFound
from pcloud.model.templates import Catalogue


class StoredImages:
    """The images of this host, for the assemblies of its deployables."""

    def __init__(self, store: ImageStore, catalogue: Catalogue) -> None:
        self._store = store
        self._catalogue = catalogue
        self._building: set[tuple[str, str]] = set()

    def key(self, assembly: Assembly) -> str:
        """Return what identifies the image."""
        return self._spec(assembly).digest

    def ready(self, assembly: Assembly) -> Image | None:
        """Return the assembly's image when it is there; None also for a JEOS nobody knows, whose build tells."""
        try:
            return self._store.find_assembly(self._spec(assembly))
        except NotFound:
            return None

    async def build(self, assembly: Assembly, report: Report) -> Image:
        """Make the assembly's image, and the JEOS below it, where they are missing."""
        return await self._store.build_assembly(self._spec(assembly), report)

    async def jeos(self) -> Sequence[Jeos]:
        """Return the JEOS images that exist or can be built."""
        built = {(one.name, one.arch): one for one in self._store.list_jeos()}
        found = []
        for name, definition in self._store.definitions().items():
            for arch in definition.architectures:
                manifest = built.get((name, arch))
                state = "building" if (name, arch) in self._building else "ready" if manifest else "absent"
                found.append(
                    Jeos(
                        name=name,
                        arch=arch,
                        distribution=definition.title,
                        state=state,
                        size=manifest.size if manifest else 0,
                        created=manifest.created if manifest else 0.0,
                    )
                )
        return found

    async def build_jeos(self, name: str, arch: str, report: Report) -> None:
        """Build a JEOS."""
        self._building.add((name, arch))
        try:
            await self._store.build_jeos(name, arch, report)
        finally:
            self._building.discard((name, arch))

    async def delete_jeos(self, name: str, arch: str) -> None:
        """Remove a JEOS."""
        await self._store.delete_jeos(name, arch)

    def keys(self, hostname: str) -> Keys:
        """Make the keys of a new guest."""
        made = make_identity(hostname)
        return Keys(identity=made.identity, private_key=made.private_key, host_key=made.host_key)

    def _spec(self, assembly: Assembly) -> AssemblyImageSpec:
        files = []
        for path, content in assembly.files:
            attributes = assembly.attributes_of(path)
            owner = attributes.owner if ":" in attributes.owner else f"{attributes.owner}:{attributes.owner}"
            files.append(ImageFile(path=path, content=content, mode=attributes.mode, owner=owner))
        # A service that we manage is not started at boot: two masters would fight over it.
        managed = [r.type for r in assembly.resources if r.resource_class in ("systemd", "service", "lsb")]
        return AssemblyImageSpec(
            jeos=assembly.image,
            arch=assembly.arch,
            packages=self._catalogue.packages_for(assembly),
            files=tuple(files),
            commands=assembly.commands,
            agent=assembly.agent if assembly.transport == "remote" else "",
            disable_units=tuple(dict.fromkeys(managed)),
            transport=assembly.transport,
        )
