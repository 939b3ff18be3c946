"""
Runs a coroutine under the reactor, until it ends or somebody presses Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TypeVar, cast

from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.python.failure import Failure

T = TypeVar("T")


def run(main: Callable[[ReactorBase], Coroutine[Deferred[object], object, T]]) -> T:
    """
    Blocks until C{main} is done; once in a process, as the reactor allows. On
    SIGINT and SIGTERM C{main} is cancelled, and may take its time to clean up.

    @return: what C{main} returns; what it raises is raised.
    """
    from twisted.internet import reactor

    running = cast(ReactorBase, reactor)
    results: list[T | Failure] = []

    def start() -> None:
        task = Deferred.fromCoroutine(main(running))
        done: Deferred[None] = Deferred()

        def interrupt() -> Deferred[None]:
            task.cancel()
            return done

        def end(result: T | Failure) -> None:
            results.append(result)
            done.callback(None)
            with suppress(ReactorNotRunning):  # it is stopping: that was an interrupt
                running.stop()

        running.addSystemEventTrigger("before", "shutdown", interrupt)
        task.addBoth(end)

    running.callWhenRunning(start)
    running.run()
    [result] = results
    if isinstance(result, Failure):
        result.raiseException()
    return result
