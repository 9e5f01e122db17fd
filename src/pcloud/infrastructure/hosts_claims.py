"""Who has which host: one small file a host, under a lock, so that two engines or deployables never have the same one.

A claim outlives every process of ours; it ends when its guest is deleted. Blocking for as long as a few small files take.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure.host import alone, write_atomically


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest has of a host."""

    host: str
    guest_id: str
    digest: str = ""
    boot_id: str = ""
    """Made anew by every start."""
    booted: str = ""
    """What the host's own boot was told by when it was started; empty where it could not be asked."""
    started: bool = False
    """Services of ours may run there; until it is seen stopped or isolated."""
    switched: bool = False
    """We switched the host on last, and it has not been reached since."""


_decoder = msgspec.json.Decoder(Claim)


class Claims:
    """The claims in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def all(self) -> list[Claim]:
        """Return every claim. InfrastructureError when one can not be read."""
        found = []
        for path in sorted(self._folder.glob("*.claim")):
            with contextlib.suppress(FileNotFoundError):  # given up in this moment
                found.append(self._read(path))
        return found

    def of(self, guest_id: str) -> Claim | None:
        """Return a guest's claim. Of two, left by a crash while it moved, the one that may have services."""
        found = [claim for claim in self.all() if claim.guest_id == guest_id]
        return max(found, key=lambda claim: claim.started, default=None)

    def take(self, claim: Claim) -> Claim:
        """Claim a host, or return the claim that the guest has of it; permanent InfrastructureError when another has it."""
        with self._locked():
            path = self._folder / f"{claim.host}.claim"
            if path.exists():
                found = self._read(path)
                if found.guest_id == claim.guest_id:
                    return found
                ours = found.guest_id.partition(".")[0] == claim.guest_id.partition(".")[0]
                if found.started or not ours:  # two guests of one deployable may change their hosts
                    raise InfrastructureError(
                        f"host {claim.host} is in use by {found.guest_id}: a host belongs to one guest",
                        permanent=not ours,
                    )
            write_atomically(path, msgspec.json.encode(claim))
            return claim

    def put(self, claim: Claim) -> Claim:
        """Change a claim that is held; InfrastructureError when it is not."""
        with self._locked():
            path = self._folder / f"{claim.host}.claim"
            if not path.exists() or self._read(path).guest_id != claim.guest_id:
                raise InfrastructureError(f"host {claim.host} does not belong to {claim.guest_id} any more")
            write_atomically(path, msgspec.json.encode(claim))
            return claim

    def give_up(self, guest_id: str, *, but: str = "") -> None:
        """End a guest's claims, that of the host `but` left aside."""
        with self._locked():
            for claim in self.all():
                if claim.guest_id == guest_id and claim.host != but:
                    (self._folder / f"{claim.host}.claim").unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with alone(self._folder / "lock"):
                yield
        except OSError as error:
            raise InfrastructureError(f"claims of hosts can not be kept in {self._folder}: {error.strerror}") from error

    def _read(self, path: Path) -> Claim:
        try:
            return _decoder.decode(path.read_bytes())
        except FileNotFoundError:
            raise
        except (OSError, msgspec.MsgspecError) as error:
            raise InfrastructureError(f"the claim {path} can not be read: {error}") from error
