"""The store as a whole: opening it gives everything that is kept."""

from __future__ import annotations

from pcloud.store.database import Database, Fence
from pcloud.store.deployables import Deployables
from pcloud.store.log import Log
from pcloud.store.tables import Jobs, Library, Tokens


class Store:
    """All tables over one database."""

    def __init__(self, database: Database, *, keep_decisions: int) -> None:
        self._database = database
        self.deployables = Deployables(database)
        self.log = Log(database, keep_decisions=keep_decisions)
        self.library = Library(database)
        self.jobs = Jobs(database)
        self.tokens = Tokens(database)

    @classmethod
    async def open(cls, url: str, *, keep_decisions: int = 500, fence: Fence | None = None) -> Store:
        """Open and, where needed, migrate. StoreError when that can not be done."""
        return cls(await Database.open(url, fence=fence), keep_decisions=keep_decisions)

    async def close(self) -> None:
        """Close every connection."""
        await self._database.close()
