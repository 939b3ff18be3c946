"""
Who may send now: claimed deliveries stand in lines, one line for each courier.

Decisions only; the scheduler acts on them. A courier that is slow or dead fills
its own line and no other. Whoever has the least under way goes next, so that a
few such couriers do not hold all the places either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from attrs import define, field, frozen

from pymail_tx.relay.courier import Courier
from pymail_tx.spool.interface import Due

MAX_SENDS = 20
"""At once in all: each may hold a connection and its buffers; more hardly gains on one core."""

MAX_SENDS_A_COURIER = 5
"""At once to one target: what a receiver takes from a stranger without complaint; three dead ones leave places free."""

MAX_LINE = 50
"""Groups held for one courier: ten rounds of work without a look into the spool, and half of L{MAX_HELD}."""

MAX_HELD = 100
"""Groups held in all."""

MAX_HELD_FRESH = 75
"""Groups held when a fresh message may still join from memory: what waits in the spool has the rest."""

MAX_HELD_OCTETS = 4 * 2**20
"""Of content held in all. Of a message that is larger than a part only one part counts."""


@frozen(kw_only=True, eq=False)
class Group:
    """
    Deliveries of one message that go to the same courier, and travel together.
    """

    due: Due
    courier: Courier


@define
class _Line:
    waiting: deque[Group] = field(factory=deque)
    sending: int = 0
    held: int = 0


@define
class Lines:
    """
    A group joins, is sent, and leaves once its results are stored.
    """

    _lines: dict[str, _Line] = field(factory=dict)
    _sending: int = 0
    _held: int = 0
    _held_octets: int = 0
    _promised: int = 0

    @property
    def room(self) -> int:
        """How many more groups may join."""
        return max(0, MAX_HELD - self._held - self._promised) if self.room_octets > 0 else 0

    @property
    def room_octets(self) -> int:
        """How much more content may join."""
        return MAX_HELD_OCTETS - self._held_octets

    @property
    def busy(self) -> tuple[str, ...]:
        """Couriers whose line is full."""
        return tuple(key for key, line in self._lines.items() if line.held >= MAX_LINE)

    def promise(self, keys: Iterable[str]) -> bool:
        """
        Keep room for a fresh message that goes to these couriers, until L{redeem}.

        @return: C{False} if there is none.
        """
        busy = self.busy
        if not self.room or self._held + self._promised >= MAX_HELD_FRESH or any(key in busy for key in keys):
            return False
        self._promised += 1
        return True

    def redeem(self) -> None:
        """The fresh message is here now, or will not come."""
        self._promised -= 1

    def join(self, group: Group) -> bool:
        """
        @return: C{False} if there is no room, and the group has to go back.
        """
        line = self._lines.setdefault(group.courier.key, _Line())
        if line.held >= MAX_LINE or self._held >= MAX_HELD:
            return False
        line.waiting.append(group)
        line.held += 1
        self._held += 1
        self._held_octets += group.due.held_octets
        return True

    def next(self) -> Group | None:
        """The next group to send now, counted as under way until L{sent}."""
        ready = [line for line in self._lines.values() if line.waiting and line.sending < MAX_SENDS_A_COURIER]
        if not ready or self._sending >= MAX_SENDS:
            return None
        line = min(ready, key=lambda line: line.sending)
        line.sending += 1
        self._sending += 1
        return line.waiting.popleft()

    def sent(self, group: Group) -> None:
        """Its attempt ended; another may begin."""
        self._lines[group.courier.key].sending -= 1
        self._sending -= 1

    def leave(self, group: Group) -> None:
        """It needs no memory any more."""
        line = self._lines[group.courier.key]
        line.held -= 1
        self._held -= 1
        self._held_octets -= group.due.held_octets
        if not line.held:
            del self._lines[group.courier.key]

    def clear(self) -> list[Group]:
        """Take out whatever was not begun."""
        waiting = [group for line in self._lines.values() for group in line.waiting]
        for line in self._lines.values():
            line.waiting.clear()
        for group in waiting:
            self.leave(group)
        return waiting
