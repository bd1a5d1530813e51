"""A process that passes answers on, one of several that share an address; `workers` starts it."""

from __future__ import annotations

import asyncio
import socket
import sys

import uvicorn
import uvloop

from fgpipe.gateway import access, listening
from fgpipe.gateway.exchange import Gateway
from fgpipe.gateway.link import FarDesk
from fgpipe.gateway.shortcut import Shortcut


async def work(listener: socket.socket, link: socket.socket) -> None:
    """Answer what comes to `listener`, by the desk at the other end of `link`, until that says stop or is gone."""
    _, desk = await asyncio.get_running_loop().create_unix_connection(FarDesk, sock=link)
    gateway = Gateway(await desk.config(), desk)
    app = access.Access(Shortcut(desk, gateway), keys=access.client_keys())
    server = uvicorn.Server(listening.settings(app, lifespan="off"))

    def stop() -> None:
        server.should_exit = True

    desk.stop = stop
    async with gateway.running():
        desk.ready()
        await server.serve(sockets=[listener])


def main() -> None:
    """Take listener and link from the parent, by their numbers."""
    listener, link = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    uvloop.run(work(listener, link))


if __name__ == "__main__":
    main()
