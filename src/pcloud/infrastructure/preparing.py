"""From an image of root file system layers to one that a machine boots from; the room `images` does the work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pcloud.environment.infrastructure import Image, InfrastructureError
from pcloud.model.errors import PcloudError, Unavailable


async def prepared(image: Image, prepare: Callable[[Image], Awaitable[Image]] | None) -> Image:
    """Return the image with a disk. InfrastructureError when it can not be made, permanent unless something that may come
    back is missing."""
    if prepare is None:
        return image
    try:
        return await prepare(image)
    except PcloudError as error:
        problem = error.problems[0]
        hint = f"; {problem.hint}" if problem.hint else ""
        raise InfrastructureError(f"{problem.message}{hint}", permanent=not isinstance(error, Unavailable)) from error
