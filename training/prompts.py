"""What the model is told when it tries again: prompts built from the task, its own answer and what a person may say.

No function here sees what a check expects. Revisions get feedback text, hints and the asked form; the form is a
property of the check's kind and never of its expected answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.feedback import Message

_WRONG = "That answer is wrong."
_RETRY = "Think again and give a different answer."
_LONG, _SHORT = "Long answer:", "Short answer:"
_CLOSE = "\n\nAnswer:"

_SHOWN: dict[str, tuple[tuple[str, str, str], ...]] = {
    "choice": (
        ("Which of these is a planet?\nA. Sirius\nB. Mars\nC. Halley", "Mars is a planet, Sirius is a star.", "B"),
        ("Which animal can fly?\nA. a sparrow\nB. a horse", "A sparrow has wings and can fly.", "A"),
    ),
    "yes_no": (
        ("Is fire cold?", "Fire is hot, so it cannot be called cold.", "no"),
        ("Do fish live in water?", "Fish breathe with gills, so they live in water.", "yes"),
    ),
    "number": (
        ("How much is two and three?", "Two and three make five.", "5"),
        ("How many legs do two dogs have?", "A dog has four legs, so two dogs have eight.", "8"),
    ),
}
_SHOWN_ELSE = (
    ("What is the color of the sky?", "The color of the sky is blue.", "blue"),
    ("Who wrote Hamlet?", "Hamlet was written by William Shakespeare.", "Shakespeare"),
)


@dataclass(frozen=True, slots=True)
class Task:
    """What may be shown to the model.

    Attributes:
        conversation: The original prompt.
        kind: Of the check, such as ``number``.
        form: The asked form of an answer, in words.
        answer_line: The form is an answer line at the end; else the answer stands alone.
        hint: Partial information somebody gave, never the answer.
    """

    conversation: tuple[Message, ...]
    kind: str
    form: str
    answer_line: bool
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """A prompt for another try.

    Attributes:
        messages: The whole conversation.
        scaffold: All of it that was added for this try: what a completion must not merely repeat.
        opening: Words put into the model's mouth; it goes on from there.
        kept: The part of the opening that belongs to the completion.
    """

    messages: tuple[Message, ...]
    scaffold: str
    opening: str = ""
    kept: str = ""


def revision(task: Task, answer: str, feedback: str | None) -> Retry:
    """Asks for another answer after a wrong one.

    Args:
        task: The original task.
        answer: The model's previous answer, as it gave it.
        feedback: What a person said about that answer, as typed; None if nobody did.
    """
    parts = [feedback.strip() if feedback and feedback.strip() else _WRONG]
    if task.hint and task.hint.strip():
        parts.append(f"Hint: {task.hint.strip()}")
    scaffold = _lines(*parts, _RETRY, task.form)
    turns = (Message(role="assistant", content=answer), Message(role="user", content=scaffold))
    return Retry(task.conversation + turns, scaffold)


def rewrite(task: Task, answer: str) -> Retry:
    """Asks for the same answer in the asked form. Carries no feedback: nobody said that it is wrong.

    An answer line is begun behind the answer, and the model fills it in. An answer that should stand alone is asked for
    behind two examples of the same kind: a small model told to be brief is not, one that was shown is.
    """
    if task.answer_line:
        begun = answer.rstrip() + _CLOSE
        return Retry(task.conversation, "", begun, begun)
    examples = _SHOWN.get(task.kind, _SHOWN_ELSE)
    shown = [turn for question, long, short in examples for turn in _shown(question, long, short, task.form)]
    last = task.conversation[-1]
    asked = Message(role="user", content=_lines(last.content, task.form, f"{_LONG} {answer}"))
    scaffold = _lines(*(turn.content for turn in shown), task.form)
    return Retry((*task.conversation[:-1], *shown, asked), scaffold, _SHORT)


def _shown(question: str, long: str, short: str, form: str) -> tuple[Message, Message]:
    asked = Message(role="user", content=_lines(question, form, f"{_LONG} {long}"))
    return asked, Message(role="assistant", content=f"{_SHORT} {short}")


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
