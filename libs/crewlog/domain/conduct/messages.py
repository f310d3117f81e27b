"""What may become of the messages to the agents of a run, as its history shows it.

Numbered without gaps for each task, sent once, never to a task that has ended; and when the task or the run ends, each
was read or is said to be undelivered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from crewlog.v1.run_pb2 import MessageSent, MessageUndelivered


@dataclass(slots=True)
class MessageConduct:
    """`sent` and `read` are by task; `undelivered` are ids."""

    sent: defaultdict[str, list[MessageSent]] = field(default_factory=lambda: defaultdict(list))
    read: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    undelivered: set[str] = field(default_factory=set)

    def send(self, fact: MessageSent, *, has_ended: bool) -> Iterator[str]:
        before = self.sent[fact.task_id]
        if fact.number != len(before) + 1:
            yield f"message {fact.number} to {fact.task_id} follows message {len(before)}"
        if any(fact.message_id == one.message_id for sent in self.sent.values() for one in sent):
            yield f"message {fact.message_id!r} is sent twice"
        if has_ended:
            yield f"message {fact.message_id!r} is sent to {fact.task_id}, which has ended"
        before.append(fact)

    def end_task(self, task_id: str, read: Sequence[int]) -> Iterator[str]:
        """The task has ended, and its agent has read these."""
        for number in sorted(set(read) - {one.number for one in self.sent[task_id]}):
            yield f"{task_id} has read message {number}, which was not sent"
        self.read[task_id].update(read)
        yield from (f"{task_id} has read {one!r}, which was undelivered" for one in sorted(self._wrongly(task_id)))

    def _wrongly(self, task_id: str) -> set[str]:
        read = self.read[task_id]
        return {one.message_id for one in self.sent[task_id] if one.number in read} & self.undelivered

    def give_back(self, fact: MessageUndelivered) -> Iterator[str]:
        found = next((one for one in self.sent[fact.task_id] if one.message_id == fact.message_id), None)
        if found is None:
            yield f"message {fact.message_id!r} is undelivered, and was not sent to {fact.task_id}"
        elif found.number in self.read[fact.task_id]:
            yield f"message {fact.message_id!r} is undelivered, and was read"
        if fact.message_id in self.undelivered:
            yield f"message {fact.message_id!r} is undelivered twice"
        self.undelivered.add(fact.message_id)

    def check_settled(self, task_id: str) -> Iterator[str]:
        for one in self.sent[task_id]:
            if one.number not in self.read[task_id] and one.message_id not in self.undelivered:
                yield f"{task_id} has ended, and message {one.message_id!r} was neither read nor given back"
