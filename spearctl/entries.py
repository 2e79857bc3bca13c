"""Feedback entries made of flags: what fits together, and what is missing."""

from __future__ import annotations

import secrets
import typing
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from spearctl.errors import UsageError

if TYPE_CHECKING:
    from training.checks import Check
    from training.feedback import Attempt, Entry


def make_check(kind: str | None, fields: Mapping[str, Any]) -> Check | None:
    """Makes a check of the flags that describe one.

    Raises:
        UsageError: They do not fit together.
    """
    import msgspec

    from training.checks import Check as AnyCheck

    given = {name: value for name, value in fields.items() if value is not None}
    if kind is None:
        if given:
            raise UsageError(f"--{next(iter(given))} says something of a check, but there is none", "add --check TYPE")
        return None
    if "expect" not in given:
        raise UsageError("a check needs the right answer", "add --expect ANSWER")
    kinds = {one.__struct_config__.tag: one for one in typing.get_args(AnyCheck)}
    if unfit := given.keys() - {field.name for field in msgspec.structs.fields(kinds[kind])}:
        names = ", ".join(f"--{name}" for name in sorted(unfit))
        raise UsageError(f"--check {kind} has no {names}", "see what each is for: spearctl feedback add --help")
    try:
        made: Check = msgspec.convert({"type": kind, **given}, AnyCheck)
    except msgspec.ValidationError as error:
        raise UsageError(f"--check {kind}: {error}", "see how it is used: spearctl feedback add --help") from error
    return made


def make_attempt(
    completion: str | None, verdict: Literal["right", "wrong"] | None, feedback: str | None
) -> Attempt | None:
    """Makes an attempt of the flags that judge an answer; None without an answer.

    Raises:
        UsageError: Something is said of an answer that is not there.
    """
    from training.feedback import Attempt

    if completion is None:
        if verdict is not None or feedback is not None:
            flag = "--verdict" if verdict is not None else "--feedback"
            raise UsageError(f"{flag} judges an answer, but there is none", "add --completion TEXT")
        return None
    return Attempt(completion, verdict, feedback)


def make_entry(
    known: Entry | None,
    name: str | None,
    prompt: str | None,
    attempt: Attempt | None,
    check: Check | None,
    *,
    hint: str | None,
    user: str | None,
) -> Entry:
    """Makes the entry that is appended to the log.

    Args:
        known: The entry that it extends, if there is one.
        name: Its id; a new one is drawn without it.
        prompt: What was typed; that of the known entry without it.
        attempt: An answer and its verdict.
        check: A rule for answers.
        hint: Partial information.
        user: Who says so.

    Raises:
        UsageError: Something is missing.
        FeedbackError: The id has another prompt.
    """
    from training.feedback import Entry, merge

    if known is None:
        _require_enough(name, prompt, attempt, check)
    new = Entry(
        v=1,
        id=name or secrets.token_hex(6),
        ts=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        user=user,
        prompt=prompt if prompt is not None or known is None else known.prompt,
        messages=known.messages if prompt is None and known is not None else None,
        attempts=() if attempt is None else (attempt,),
        check=check,
        hint=hint,
    )
    if known is not None:
        merge(known, new)  # refuses another prompt
    return new


def _require_enough(name: str | None, prompt: str | None, attempt: Attempt | None, check: Check | None) -> None:
    """A new entry says what was asked, and how answers are judged."""
    if prompt is None:
        raise UsageError(
            f"there is no entry {name!r} to extend" if name else "the prompt is missing", "add --prompt TEXT"
        )
    if check is None and (attempt is None or attempt.verdict is None):
        raise UsageError(
            "nothing can be learned from a prompt alone",
            "judge an answer: --completion TEXT --verdict wrong; or give a rule: --check TYPE --expect ANSWER",
        )
