"""What the daemon needs from the rooms beside it, as small interfaces: documents (`model`) and images (`images`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from pcloud.cpe.keys import Keys
from pcloud.environment.infrastructure import Image
from pcloud.model.deployable import Assembly, Deployable, Resource

Report = Callable[[float, str], None]
"""(fraction 0..1, what is being done)"""


class Jeos(msgspec.Struct, frozen=True, kw_only=True):
    """A JEOS image, or the possibility of one."""

    name: str
    arch: str
    distribution: str = ""
    state: str = "absent"
    """`absent`, `building`, `ready` or `failed`."""
    size: int = 0
    created: float = 0.0


class TemplateInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A resource template, as listed."""

    name: str
    description: str = ""
    aliases: tuple[str, ...] = ()


class ImportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An image made by others, as its importer names it."""

    name: str
    arch: str
    digest: str
    """`sha256:` or `sha512:` and the digest in hexadecimal, of the file as it is sent."""
    like: str = ""
    """The distribution in it, for resource templates; empty where nobody said."""
    size: int = 0
    """Bytes that will be sent; 0 where that is not known."""


class Documents(Protocol):
    """Reading, checking and writing deployables. All methods compute only; big documents belong into a thread."""

    def know_images(self, images: Mapping[str, str]) -> None:
        """Take note of the images made by others: name → the distribution in it, or nothing."""
        ...

    def is_distribution(self, name: str) -> bool:
        """Tell whether a name or alias is a distribution's, imported images left aside."""
        ...

    def read(self, body: bytes, form: str, file: str) -> Deployable:
        """Read `yaml`, `xml` or `json`; InvalidDocument with every problem."""
        ...

    def write(self, deployable: Deployable, form: str, *, redacted: bool) -> str:
        """Write `yaml`, `xml` or `json`; `redacted` hides secrets."""
        ...

    def check(self, deployable: Deployable) -> Deployable:
        """Return a deployable made by hand once it passed what documents must pass."""
        ...

    def changes(self, old: Deployable, new: Deployable) -> Sequence[str]:
        """Return the paths of what differs."""
        ...

    def resource(self, assembly: Assembly, name: str, template: str) -> Resource:
        """Make a resource from a template for an assembly; InvalidDocument or NotFound."""
        ...

    def assembly(self, name: str, image: str, arch: str) -> Assembly:
        """Make an assembly without resources; InvalidDocument."""
        ...

    def templates(self) -> Sequence[TemplateInfo]:
        """Return the resource templates."""
        ...


class Images(Protocol):
    """The image store."""

    def key(self, assembly: Assembly) -> str:
        """Return what identifies the image an assembly needs; equal for equal images."""
        ...

    def ready(self, assembly: Assembly) -> Image | None:
        """Return the assembly's image when it is there. Quick: called for thousands of assemblies in a row."""
        ...

    def wish(self, assembly: Assembly) -> str:
        """Return what stays the same for as long as the assembly asks for the same image, even where a newer version of us
        would build it otherwise; empty where there is no such thing."""
        ...

    def held(self, digest: str) -> Image | None:
        """Return an image that guests were made from, whichever version built it; None when it is gone."""
        ...

    async def build(self, assembly: Assembly, report: Report) -> Image:
        """Make the assembly's image (and the JEOS below it) where it is not there; PcloudError when that fails."""
        ...

    async def jeos(self) -> Sequence[Jeos]:
        """Return the JEOS images that exist or can be built."""
        ...

    async def build_jeos(self, name: str, arch: str, report: Report) -> None:
        """Build a JEOS; PcloudError when that fails."""
        ...

    async def delete_jeos(self, name: str, arch: str) -> None:
        """Remove a JEOS; NotFound."""
        ...

    def imported(self) -> Mapping[str, str]:
        """Return the images made by others: name → the distribution in it, or nothing."""
        ...

    async def import_image(self, wanted: ImportRequest, content: AsyncIterator[bytes]) -> Jeos:
        """Take over a disk image whose digest is right; PcloudError when it is not, or is no such image."""
        ...

    def keys(self, hostname: str) -> Keys:
        """Make the keys of a new guest."""
        ...


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `doctor`."""

    check: str
    state: str
    """`ok`, `warning` or `missing`."""
    detail: str = ""
    hint: str = ""
