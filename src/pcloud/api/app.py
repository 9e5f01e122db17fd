"""The application: routers, guards, error shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from pcloud.api import dashboard, deployables, drills, errors, events, library, simulate, stacks, system, volumes
from pcloud.api.metrics import Metrics
from pcloud.api.middleware import BodyLimit, HostGuard
from pcloud.cpe.drills import Drills
from pcloud.cpe.engine import CloudPolicyEngine
from pcloud.cpe.foresight import Foresight
from pcloud.cpe.tokens import TokenBook
from pcloud.cpe.version import version
from pcloud.stacks.engine.manager import StackManager

Shutdown = Callable[[bool, bool], Any]
"""(engines, guests)"""


def make_app(
    engine: CloudPolicyEngine,
    tokens: TokenBook,
    metrics: Metrics,
    shutdown: Shutdown,
    manager: StackManager | None = None,
) -> ASGIApp:
    """Return the application with its guards around it; without a `manager` there are no stacks."""
    app = FastAPI(
        title="pacemaker-cloud",
        version=version(),
        description="Keeps applications made of guests running, and says why it did what it did.",
    )
    app.state.engine = engine
    app.state.foresight = Foresight(engine)
    app.state.drills = Drills(engine)
    app.state.tokens = tokens
    app.state.metrics = metrics
    app.state.shutdown = shutdown
    for room in (system, simulate, drills, deployables, library, events):
        app.include_router(room.router)
    if manager is not None:
        app.state.stacks = manager
        app.include_router(stacks.router)
        app.include_router(volumes.router)
    dashboard.install(app)
    errors.install(app)
    guarded: ASGIApp = BodyLimit(app, limit=engine.settings.api.body_limit, streamed=library.is_import)
    return HostGuard(guarded, allowed=engine.settings.api.allowed_hosts)
