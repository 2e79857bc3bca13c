"""Checks: judging a completion without a person, by a rule that a feedback log's entry carries.

Every check has three verdicts: right, right but not in the asked form, wrong. `Check` is any of them; msgspec decodes
it from the log's `check` object by its `type`. What all of them share, and how a form is kept, says
`training.checks.base`; what is normalised says `training.checks.text`; the rest each class says of itself.

A check never shows what it expects: all it offers but `expect`, the verdict and `contains` is the same whatever the
expected answer is, so prompts can be built from it.

Not covered: a verdict tells one bit about the expected answer, and a caller that plays one prompt often enough with
closed answers can find it out; and no check sees whether the reasoning before an answer is sound.
"""

from __future__ import annotations

from training.checks.base import Format, Judgement, Verdict
from training.checks.choice import Choice
from training.checks.document import Json
from training.checks.exact import Exact
from training.checks.number import Number
from training.checks.pattern import Regex
from training.checks.yes_no import YesNo

Check = Choice | YesNo | Number | Exact | Regex | Json
"""Any kind of check."""

__all__ = [
    "Check",
    "Choice",
    "Exact",
    "Format",
    "Json",
    "Judgement",
    "Number",
    "Regex",
    "Verdict",
    "YesNo",
    "contains",
]


def contains(check: Check, completion: str) -> bool:
    """Whether the right answer is present in a completion, in any form.

    For reports only: a completion that names all possible answers contains the right one.
    """
    return check.contains(completion)
