"""One row of TRL's preference data as an entry of a feedback log.

- *Unpaired*: `prompt`, `completion`, `label` (true or false).
- *Paired*: `prompt`, `chosen`, `rejected`; or without `prompt`, which is then what `chosen` and `rejected` share at
  their start: whole messages, or whole words (white space between prompt and answer goes to the answer).

Each of them is a text or a list of messages. Lists of messages may repeat the prompt before the answer. Other columns
are ignored.
"""

from __future__ import annotations

import hashlib
from itertools import takewhile
from typing import TypeAlias

import msgspec

from training.errors import FeedbackError
from training.feedback import Attempt, Entry, Message, conversation_key
from training.parsing import field_error, plain

Messages: TypeAlias = tuple[Message, ...]
Text: TypeAlias = str | Messages


class Unpaired(msgspec.Struct, frozen=True):
    """An answer that was judged."""

    prompt: Text
    completion: Text
    label: bool


class Paired(msgspec.Struct, frozen=True):
    """Two answers of which one is better."""

    chosen: Text
    rejected: Text
    prompt: Text | None = None


def entry_of(row: object) -> Entry:
    """Turn a decoded row into an entry.

    Its id follows from the prompt and the completions alone, so a row that was relabelled corrects the entry. Of a
    pair the rejected answer comes first: the chosen one after it shows that it could be done better.

    Raises:
        FeedbackError: It is no such row; message and hint are the reason.
    """
    if not isinstance(row, dict):
        raise FeedbackError("the row is not one object {...}", "write one object a row")
    if not row.keys() & {"chosen", "rejected", "completion", "label"}:
        columns = ", ".join(str(name) for name in row) or "none"
        what = "prompt, completion and label, or prompt, chosen and rejected"
        raise FeedbackError(f"the row has the columns {plain(columns)}", f"it needs {what}")
    try:
        if row.keys() & {"chosen", "rejected"}:
            return _paired(msgspec.convert(row, Paired))
        return _unpaired(msgspec.convert(row, Unpaired))
    except msgspec.ValidationError as error:
        raise field_error(error) from error


def _unpaired(row: Unpaired) -> Entry:
    prompt, completion = _split(row.prompt, row.completion)
    return _entry(prompt, (Attempt(completion, "right" if row.label else "wrong"),))


def _paired(row: Paired) -> Entry:
    if row.prompt is not None:
        prompt, chosen = _split(row.prompt, row.chosen)
        other, rejected = _split(row.prompt, row.rejected)
    elif isinstance(row.chosen, str) and isinstance(row.rejected, str):
        prompt, chosen, rejected = _split_texts(row.chosen, row.rejected)
        other = prompt
    elif isinstance(row.chosen, str) or isinstance(row.rejected, str):
        raise FeedbackError("of `chosen` and `rejected` one is a text and one a list", "write both the same way")
    else:
        prompt, chosen = _split((), row.chosen)
        other, rejected = _split((), row.rejected)
    if prompt != other:
        hint = "let them differ in their last message only, or write two rows with a label"
        raise FeedbackError("`chosen` and `rejected` do not answer the same conversation", hint)
    if not prompt:
        raise FeedbackError("there is no prompt, and `chosen` and `rejected` start differently", "add a prompt")
    if chosen == rejected:
        raise FeedbackError("`chosen` and `rejected` are the same", "delete the row, or correct it")
    return _entry(prompt, (Attempt(rejected, "wrong"), Attempt(chosen, "right")))


def _split(prompt: Text, answer: Text) -> tuple[Text, str]:
    """What was asked, and the answer to it as one text; the answer's messages may hold a part of what was asked."""
    if isinstance(answer, str):
        return prompt, answer
    if not answer or answer[-1].role != "assistant":
        raise FeedbackError("the answer's last message is not the assistant's", "end it with the assistant's message")
    before, text = answer[:-1], answer[-1].content
    if not before:
        return prompt, text
    asked = _messages(prompt)
    # A text as the prompt beside a whole conversation repeats one of its messages.
    repeated = before[: len(asked)] == asked or (isinstance(prompt, str) and asked[0] in before)
    return before if repeated else asked + before, text


def _split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """The whole words that two texts share at their start, and what follows them in each."""
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    prompt = chosen[:shared]
    if any(text[shared : shared + 1].strip() for text in (chosen, rejected)):  # not at the end of a word
        prompt = prompt[: max((place + 1 for place, letter in enumerate(prompt) if letter.isspace()), default=0)]
    prompt = prompt.rstrip()
    return prompt, chosen[len(prompt) :], rejected[len(prompt) :]


def _entry(prompt: Text, attempts: tuple[Attempt, ...]) -> Entry:
    try:
        parts = [conversation_key(_messages(prompt)), *sorted(attempt.completion for attempt in attempts)]
        digest = hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
    except UnicodeEncodeError as error:
        raise FeedbackError("the row holds bytes or escapes that are no UTF-8 text", "correct it") from error
    return Entry(
        v=1,
        id=f"trl-{digest[:16]}",
        prompt=prompt if isinstance(prompt, str) else None,
        messages=None if isinstance(prompt, str) else prompt,
        attempts=attempts,
    )


def _messages(prompt: Text) -> Messages:
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt
