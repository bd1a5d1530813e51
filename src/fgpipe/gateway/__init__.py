"""The one address clients talk to: it checks keys, picks a server, passes answers on as they come, and counts.

`serve` runs it; `application.create` makes the ASGI application, for another server or a test.
"""

from __future__ import annotations

from fgpipe.gateway.listening import serve

__all__ = ["serve"]
