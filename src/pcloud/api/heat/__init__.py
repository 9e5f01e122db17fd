"""The Heat API (`/v1/{project}/…` on port 8004) with version discovery and a minimal identity catalogue.

Concurrency: handlers run on the event loop of the stack manager and only await it. Without a token a request from loopback
may do everything when the daemon was told so (`open_loopback`), as `OS_AUTH_TYPE=none` clients expect.
"""

from pcloud.api.heat.app import heat_app

__all__ = ["heat_app"]
