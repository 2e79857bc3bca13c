"""One entry of a feedback log: a prompt, what was answered to it, and what people said of the answers.

An entry may be told in several lines: a later line with the same id and prompt extends or corrects the earlier
ones (`merge`). Different entries may disagree about the same answer to the same prompt (`contradictions`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar

import msgspec

# Needed when the module runs: msgspec reads the annotations below to build its decoder.
from training.checks import Check
from training.errors import FeedbackError

VERSION = 1
"""The version of the log's lines that this module reads and writes."""

T = TypeVar("T")


class EntryError(FeedbackError, ValueError):
    """An entry's fields contradict each other; a ValueError too, so that msgspec tells the place when it decodes."""


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer to the prompt and what was said of it.

    Attributes:
        completion: The answer, as the model gave it; may be empty.
        verdict: What a person judged, or None where nobody has.
        feedback: What a person said of it in their own words, or None.
    """

    completion: str
    verdict: Literal["right", "wrong"] | None = None
    feedback: str | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A prompt with its attempts; unknown keys beside these are ignored when one is read.

    Attributes:
        v: Version of the line's format.
        id: Name of the entry, its own within a log; not empty.
        ts: When it was written (ISO 8601), or None. Kept as text and never interpreted.
        user: Who said it, or None.
        prompt: The prompt as one text; exactly one of `prompt` and `messages` is given, and it is not empty.
        messages: The prompt as a conversation.
        attempts: The answers given to it, oldest first.
        check: How an answer to it can be judged without a person, or None.
        hint: Partial information that may help to answer, never the answer, or None.

    Raises:
        EntryError: The id is empty, or not exactly one of `prompt` and `messages` is given and not empty.
    """

    v: Literal[1]
    id: str
    ts: str | None = None
    user: str | None = None
    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    attempts: tuple[Attempt, ...] = ()
    check: Check | None = None
    hint: str | None = None

    def __post_init__(self) -> None:
        """Check what the fields' types cannot say."""
        if not self.id:
            raise EntryError("the field `id` is empty", 'give the entry a name of its own, such as "id": "question-17"')
        if (self.prompt is None) == (self.messages is None):
            given = "neither `prompt` nor `messages` is" if self.prompt is None else "both `prompt` and `messages` are"
            raise EntryError(f"{given} given", "give exactly one of them")
        if not (self.prompt or self.messages):
            empty = "messages" if self.prompt is None else "prompt"
            raise EntryError(f"the field `{empty}` is empty", "write what the model was asked")

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The prompt as messages, oldest first; a prompt given as one text is one message of the user."""
        if self.messages is not None:
            return self.messages
        return (Message("user", self.prompt or ""),)

    @property
    def prompt_key(self) -> str:
        """SHA-256 (hex) of the conversation: equal for equal prompts, whichever way they were written."""
        return conversation_key(self.conversation)


def conversation_key(conversation: Sequence[Message]) -> str:
    """SHA-256 (hex) that two conversations share exactly when their roles and texts are equal."""
    return _digest([[message.role, message.content] for message in conversation])


def attempt_key(entry_id: str, attempt: Attempt) -> str:
    """SHA-256 (hex) under which an attempt is remembered as trained on.

    The verdict is part of it, so an attempt whose verdict was corrected counts as a new one; its feedback is not.
    These keys are stored: changing how they are made makes every attempt look new.
    """
    return _digest([entry_id, attempt.completion, attempt.verdict])


def merge(earlier: Entry, *later: Entry) -> Entry:
    """Put the lines of one entry together, in the order they were written.

    What a later line says once of a completion that is known corrects it in place, everywhere it stands: its verdict
    and feedback replace the known ones where given (a null takes nothing back). Other attempts are appended. A line
    that holds several attempts with the same completion states them side by side, contradictions included, and
    corrects nothing. `check`, `hint` and `user` are the last given; `ts` stays the first. Merging a line twice
    changes nothing more.

    Args:
        earlier: The first line of the entry.
        later: The lines after it, oldest first.

    Returns:
        One entry that holds what all of them say.

    Raises:
        FeedbackError: One of them has another id, or another prompt.
    """
    lines = (earlier, *later)
    attempts: list[Attempt] = []
    places: dict[str, list[int]] = {}
    for line in lines:
        if line.id != earlier.id:
            raise FeedbackError(f"entries {earlier.id!r} and {line.id!r} have different ids and cannot be one")
        if line.conversation != earlier.conversation:
            raise FeedbackError(f"the id {line.id!r} already has another prompt", "give this entry an id of its own")
        _fold(attempts, places, line.attempts)
    return msgspec.structs.replace(
        earlier,
        ts=next((line.ts for line in lines if line.ts is not None), None),
        attempts=tuple(attempts),
        check=_last_given(line.check for line in lines),
        hint=_last_given(line.hint for line in lines),
        user=_last_given(line.user for line in lines),
    )


def contradictions(entries: Iterable[Entry]) -> set[tuple[str, str]]:
    """The answers that were judged both right and wrong, by whomever and under whatever id.

    Returns:
        Pairs of the prompt's key (`Entry.prompt_key`) and the completion.
    """
    verdicts: dict[tuple[str, str], set[str]] = {}
    for entry in entries:
        judged = [attempt for attempt in entry.attempts if attempt.verdict is not None]
        key = entry.prompt_key if judged else ""
        for attempt in judged:
            verdicts.setdefault((key, attempt.completion), set()).add(str(attempt.verdict))
    return {place for place, said in verdicts.items() if len(said) > 1}


def _fold(attempts: list[Attempt], places: dict[str, list[int]], said: Sequence[Attempt]) -> None:
    """Add one line's attempts to those gathered; `places` says where each completion stands among them."""
    times = Counter(attempt.completion for attempt in said)
    known = {completion: {attempts[place] for place in places.get(completion, ())} for completion in times}
    for attempt in said:
        if known[attempt.completion] and times[attempt.completion] == 1:
            for place in places[attempt.completion]:
                attempts[place] = _corrected(attempts[place], attempt)
        elif attempt not in known[attempt.completion]:
            places.setdefault(attempt.completion, []).append(len(attempts))
            attempts.append(attempt)


def _corrected(earlier: Attempt, later: Attempt) -> Attempt:
    return Attempt(
        earlier.completion,
        earlier.verdict if later.verdict is None else later.verdict,
        earlier.feedback if later.feedback is None else later.feedback,
    )


def _last_given(values: Iterable[T | None]) -> T | None:
    last = None
    for value in values:
        last = last if value is None else value
    return last


def _digest(value: object) -> str:
    """SHA-256 (hex) of a value's JSON: quoting keeps the parts of a list apart."""
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()
