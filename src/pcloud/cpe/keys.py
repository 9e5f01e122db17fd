"""Identities of guests and their private keys: one file an assembly, mode 0600, under `$PCLOUD_HOME/keys`.

Files rather than the database, so that a copy of the database (a backup, a PostgreSQL server somebody else runs) opens no
guest. Made once, before the guest's first start, and stable until the deployable is deleted. Blocking: call in a thread.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from pcloud.cpe.home import write_private
from pcloud.environment.infrastructure import Identity
from pcloud.model.errors import Problem
from pcloud.store.errors import StoreError, StoreFull


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """Everything secret about one guest."""

    identity: Identity
    private_key: str = ""
    host_key: str = ""


_decoder = msgspec.json.Decoder(Keys)


class KeyStore:
    """The keys of all guests."""

    def __init__(self, folder: Path, make: Callable[[str], Keys]) -> None:
        self._folder = folder
        self._make = make

    def get(self, deployable: str, assembly: str) -> Keys:
        """Return a guest's keys, making them where there are none. StoreFull or StoreError when they can not be kept."""
        path = self._folder / deployable / f"{assembly}.json"
        try:
            try:
                return _decoder.decode(path.read_bytes())
            except FileNotFoundError:
                path.parent.mkdir(mode=0o700, exist_ok=True)
                keys = self._make(assembly)
                write_private(path, msgspec.json.encode(keys))
                return keys
        except OSError as error:
            raise _explain(error) from error
        except msgspec.MsgspecError as error:
            raise StoreError(
                Problem(
                    code="KEYS_DAMAGED",
                    message=f"the keys of {deployable}/{assembly} can not be read",
                    hint=f"restore {path} from a backup; without it the guest must be made anew",
                )
            ) from error

    def has(self, deployable: str, assembly: str) -> bool:
        """Tell whether a guest's keys were made."""
        return (self._folder / deployable / f"{assembly}.json").exists()

    def retain(self, deployable: str, assemblies: set[str]) -> None:
        """Remove the keys of assemblies that the deployable no longer has."""
        folder = self._folder / deployable
        if folder.is_dir():
            for path in folder.glob("*.json"):
                if path.stem not in assemblies:
                    path.unlink(missing_ok=True)

    def remove(self, deployable: str) -> None:
        """Remove all keys of a deployable."""
        shutil.rmtree(self._folder / deployable, ignore_errors=True)


def _explain(error: OSError) -> StoreError | StoreFull:
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(
            Problem(
                code="STORE_FULL",
                message="there is no room for a guest's keys",
                hint="make room on the file system of $PCLOUD_HOME",
            )
        )
    return StoreError(Problem(code="KEYS_FAILED", message=f"a guest's keys can not be kept: {error.strerror}"))
