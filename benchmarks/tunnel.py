"""The way out for simulated machines, which have none: a proxy that tunnels (RFC 9110, CONNECT).

with tunnelling("10.120.4.1") as url:
    ...  # HTTPS_PROXY=url in the machines
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from autoscaler.simulator.machines.relay import Relay, Streams


async def requested(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Streams:
    """The connection that a CONNECT request asks for. OSError: for none, or it cannot be made."""
    words = (await reader.readline()).decode("latin-1").split()
    while (await reader.readline()).strip():
        pass
    if len(words) != 3 or words[0] != "CONNECT":
        writer.write(b"HTTP/1.1 405 Only CONNECT\r\n\r\n")
        raise OSError(f"{words[:1]} asks for no tunnel")
    host, _, port = words[1].rpartition(":")
    there = await asyncio.open_connection(host, int(port))
    writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
    return there


@contextmanager
def tunnelling(address: str) -> Iterator[str]:
    """Serves at an address of this host until the block ends; its URL."""
    with Relay(address, 0, requested) as relay:
        yield f"http://{address}:{relay.port}"
