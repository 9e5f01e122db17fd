"""The `Images` port over the image store: what an assembly's image is made of, and which JEOS there are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from pcloud.cpe.keys import Keys
from pcloud.cpe.ports import ImportRequest, Jeos, Report
from pcloud.environment.infrastructure import Image
from pcloud.images.assembly import AssemblyImageSpec, ImageFile
from pcloud.images.definitions import definitions
from pcloud.images.identity import make_identity
from pcloud.images.imported import ImportedImage, ImportedImages
from pcloud.images.store import ImageStore
from pcloud.model.deployable import Assembly
from pcloud.model.errors import NotFound
from pcloud.model.templates import Catalogue

SAVED_STATE_PACKAGES = ("qemu-guest-agent",)
"""Tells when a guest has booted, and sets its clock when its state was restored."""
_UNIT_SUFFIXES = (".service", ".socket", ".timer", ".target", ".mount", ".path")


def image_spec(assembly: Assembly, catalogue: Catalogue) -> AssemblyImageSpec:
    """Return what decides an assembly's image: its own packages and those of its resources' templates, files, commands,
    agent; managed units do not start at boot, or two masters would fight over them."""
    units = []
    for resource in assembly.resources:
        if resource.resource_class in ("systemd", "service", "lsb") and not resource.attached:
            name = resource.type
            units.append(name if name.endswith(_UNIT_SUFFIXES) else f"{name}.service")
    files = []
    for path, content in assembly.files:
        attributes = assembly.attributes_of(path)
        owner = attributes.owner if ":" in attributes.owner else f"{attributes.owner}:{attributes.owner}"
        files.append(ImageFile(path=path, content=content, mode=attributes.mode, owner=owner))
    distribution = catalogue.distributions.get(assembly.image)
    return AssemblyImageSpec(
        jeos=distribution.name if distribution is not None else assembly.image,
        arch=assembly.arch,
        packages=(*catalogue.packages_for(assembly), *(SAVED_STATE_PACKAGES if assembly.saved_state else ())),
        files=tuple(files),
        commands=assembly.commands,
        agent=assembly.agent if assembly.transport == "remote" else "",
        disable_units=tuple(dict.fromkeys(units)),
        transport=assembly.transport,
    )


class StoreImages:
    """The images of one image store."""

    def __init__(self, store: ImageStore, catalogue: Catalogue) -> None:
        self._store = store
        self._catalogue = catalogue
        self._known: dict[AssemblyImageSpec, Image] = {}
        self._imported = ImportedImages(store.root)
        self._likes = {one.name: one.like for one in self._imported.list()}

    def key(self, assembly: Assembly) -> str:
        """Return what identifies the image an assembly needs; equal for equal images."""
        if assembly.host:
            return f"host/{assembly.host}"
        if assembly.image in self._likes:
            return f"imported/{assembly.image}/{assembly.arch}"
        try:
            return image_spec(assembly, self._catalogue).digest
        except NotFound:
            return f"{assembly.image}/{assembly.arch}"

    def ready(self, assembly: Assembly) -> Image | None:
        """Return the assembly's image when it is there."""
        if assembly.host:  # nothing is made: that it is this host is all that can change
            return Image(name=assembly.host, digest=f"host-{assembly.host}")
        if assembly.image in self._likes:
            return self._imported.find(assembly.image, assembly.arch)
        spec = image_spec(assembly, self._catalogue)
        image = self._known.get(spec)
        if image is None or not Path(image.path, "manifest.json").is_file():
            self._known.pop(spec, None)
            try:
                image = self._store.find_assembly(spec)
            except NotFound:
                return None
            if image is not None:
                self._known[spec] = image
        return image

    def wish(self, assembly: Assembly) -> str:
        """Return what stays the same for as long as the assembly asks for the same image; empty for imported ones,
        and for hosts."""
        if assembly.host or assembly.image in self._likes:
            return ""
        return image_spec(assembly, self._catalogue).wish

    def held(self, digest: str) -> Image | None:
        """Return an image that guests were made from, if it is still there."""
        return self._store.held_assembly(digest)

    async def build(self, assembly: Assembly, report: Report) -> Image:
        """Make the assembly's image, and the JEOS below it, where it is not there; PcloudError when that fails."""
        if assembly.image in self._likes:
            found = self._imported.find(assembly.image, assembly.arch)
            if found is None:
                raise NotFound.of(
                    "UNKNOWN_IMAGE", f"the imported image {assembly.image} is not for {assembly.arch}",
                    hint="`pcloud image list` shows for which it is",
                )  # fmt: skip
            return found
        return await self._store.build_assembly(image_spec(assembly, self._catalogue), report)

    async def jeos(self) -> Sequence[Jeos]:
        """Return the JEOS images that exist or can be built."""
        built = {(one.name, one.arch, one.digest): one for one in self._store.list_jeos()}
        found = []
        for definition in definitions().values():
            for arch in definition.architectures:
                manifest = built.get((definition.name, arch, definition.digest(arch)))
                found.append(
                    Jeos(
                        name=definition.name,
                        arch=arch,
                        distribution=definition.title,
                        state="absent" if manifest is None else "ready",
                        size=0 if manifest is None else manifest.size,
                        created=0.0 if manifest is None else manifest.created,
                    )
                )
        return found + [_listed(one) for one in self._imported.list()]

    def imported(self) -> Mapping[str, str]:
        """Return the images made by others: name → the distribution in it, or nothing."""
        return self._likes

    async def import_image(self, wanted: ImportRequest, content: AsyncIterator[bytes]) -> Jeos:
        """Take over a disk image; PcloudError of `ImportedImages.receive`."""
        manifest = ImportedImage(name=wanted.name, arch=wanted.arch, digest=wanted.digest, like=wanted.like)
        made = await self._imported.receive(manifest, content, size=wanted.size)
        self._likes = {one.name: one.like for one in self._imported.list()}
        return _listed(made)

    async def build_jeos(self, name: str, arch: str, report: Report) -> None:
        """Build a JEOS; PcloudError when that fails."""
        await self._store.build_jeos(name, arch, report)

    async def delete_jeos(self, name: str, arch: str) -> None:
        """Remove a JEOS; NotFound. Images of assemblies that nobody has any longer do not keep it."""
        if name in self._likes:
            await self._imported.delete(name, arch)
            self._likes = {one.name: one.like for one in self._imported.list()}
            return
        # The caller made sure that no assembly uses it: what is still built on it is of assemblies that are gone.
        mine = {
            f"{one.name}-{one.arch}-{one.digest}"
            for one in self._store.list_jeos()
            if (one.name, one.arch) == (name, arch)
        }
        keep = {one.digest for one in self._store.list_assembly_images() if one.jeos not in mine}
        await self._store.delete_assembly_images(keep)
        await self._store.delete_jeos(name, arch)

    def keys(self, hostname: str) -> Keys:
        """Make the keys of a new guest."""
        made = make_identity(hostname)
        return Keys(identity=made.identity, private_key=made.private_key, host_key=made.host_key)


def _listed(image: ImportedImage) -> Jeos:
    what = f"imported, {image.like}" if image.like else "imported"
    return Jeos(
        name=image.name, arch=image.arch, distribution=what, state="ready", size=image.size, created=image.created
    )
