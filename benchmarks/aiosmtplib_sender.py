"""
aiosmtplib on uvloop as a process of its own, measured from within as our agent is.

    .venv-bench/bin/python benchmarks/aiosmtplib_sender.py PORT MESSAGES CONNECTIONS <CONTENT

It runs in an environment of its own (C{make bench} sets it up), so it imports nothing of this project. Connections are
kept, and each sends the next message as soon as the one before is answered.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator

import aiosmtplib  # type: ignore[import-not-found]  # in .venv-bench only
import uvloop  # type: ignore[import-not-found]  # in .venv-bench only


async def measure(port: int, messages: int, connections: int) -> None:
    content = sys.stdin.buffer.read()
    todo = iter(range(messages))
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(_send(port, content, todo) for _ in range(connections)))
    elapsed_s, used_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    print(json.dumps({"elapsed_s": elapsed_s, "cpu_s": used_s, "peak_kib": 0}))


async def _send(port: int, content: bytes, todo: Iterator[int]) -> None:
    server = {"hostname": "127.0.0.1", "port": port}
    async with aiosmtplib.SMTP(**server, local_hostname="client.example.net", start_tls=False) as client:
        for _ in todo:
            await client.sendmail("ann@example.net", ["bob@example.org"], content)


if __name__ == "__main__":
    uvloop.run(measure(*map(int, sys.argv[1:])))
