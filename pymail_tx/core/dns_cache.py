"""
Keeps answers for as long as they say that they may be kept.

There is one way in and one way out, and two limits: L{MAX_NAMES}, at which the
name that came first goes, and L{MAX_OCTETS}, beyond which an answer is given and
not kept. A sender who makes us look up names of his own can so have at most
about 100 MB of us: he chooses names, and for each of them a few large answers.
"""

from __future__ import annotations

from attrs import define, field

from pymail_tx.core.dns import Answer, RecordType

MAX_NAMES = 10_000
"""Mail servers see a few thousand domains a day; each takes 1 to 2 KiB."""

MAX_OCTETS = 2_048
"""Of a reply. Those of use to mail fit into one UDP datagram of 1,232 octets, or nearly."""


@define
class DNSCache:
    """
    Answers by name and type.
    """

    _names: dict[str, dict[RecordType, tuple[Answer, float]]] = field(factory=dict)

    def get(self, name: str, kind: RecordType, now_s: float) -> Answer | None:
        """
        @param name: as the answer has it.
        @return: C{None} if there is none, or its time is over.
        """
        kept = self._names.get(name)
        found = kept.get(kind) if kept else None
        return found[0] if found and now_s < found[1] else None

    def keep(self, answer: Answer, size_octets: int, now_s: float) -> None:
        """
        @param size_octets: of the reply that it came in.
        """
        if answer.ttl_s <= 0 or size_octets > MAX_OCTETS:
            return
        kept = self._names.pop(answer.name, {})
        kept[answer.kind] = answer, now_s + answer.ttl_s
        self._names[answer.name] = kept
        if len(self._names) > MAX_NAMES:
            del self._names[next(iter(self._names))]
