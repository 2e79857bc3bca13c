"""The demo's questions: a few hundred with one-word answers that anybody can check, made up from small word lists."""

from __future__ import annotations

import random
from collections.abc import Iterator

from training.checks import Exact
from training.feedback import Entry

_PLURALS = (
    "cat cats dog dogs car cars tree trees book books lamp lamps table tables chair chairs box boxes fox foxes "
    "dish dishes bush bushes church churches watch watches city cities baby babies lady ladies story stories "
    "leaf leaves wolf wolves knife knives child children mouse mice foot feet tooth teeth goose geese man men "
    "woman women bus buses glass glasses key keys toy toys potato potatoes hero heroes star stars river rivers "
    "house houses horse horses apple apples bridge bridges garden gardens window windows"
)
_OPPOSITES = (
    "hot cold big small fast slow up down left right day night old young rich poor happy sad light dark open closed "
    "early late high low hard soft wet dry full empty strong weak long short loud quiet clean dirty deep shallow "
    "thick thin wide narrow push pull win lose buy sell love hate true false first last near far begin end"
)
_CAPITALS = (
    "France Paris|Germany Berlin|Italy Rome|Spain Madrid|Portugal Lisbon|Greece Athens|Austria Vienna|Poland Warsaw|"
    "Hungary Budapest|Norway Oslo|Sweden Stockholm|Finland Helsinki|Denmark Copenhagen|Ireland Dublin|Russia Moscow|"
    "Ukraine Kyiv|Turkey Ankara|Egypt Cairo|Kenya Nairobi|Japan Tokyo|China Beijing|India Delhi|Thailand Bangkok|"
    "Vietnam Hanoi|Iran Tehran|Iraq Baghdad|Cuba Havana|Peru Lima|Chile Santiago|Canada Ottawa|Belgium Brussels|"
    "Netherlands Amsterdam|Bulgaria Sofia|Romania Bucharest|Serbia Belgrade|Croatia Zagreb"
)
_LETTER_WORDS = (
    "apple bread candle dragon engine flower garden hammer island jacket kitchen lemon mirror needle orange pencil "
    "quiet rabbit silver tunnel umbrella valley window yellow zebra butter castle doctor forest guitar honey"
)
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
_MONTHS = "January February March April May June July August September October November December"


def demo_log(*, train: int, test: int, seed: int) -> tuple[list[Entry], list[Entry]]:
    """Splits shuffled questions into ``train`` to learn from and ``test`` others, none in both."""
    questions = sorted(set(_questions(random.Random(seed))))
    random.Random(seed + 1).shuffle(questions)
    entries = [
        Entry(
            v=1,
            id=f"demo-{number}",
            prompt=f"{question} Answer with one word only.",
            check=Exact(expect=answer, format="bare", words=1),
            hint=hint,
        )
        for number, (question, answer, hint) in enumerate(questions)
    ]
    return entries[test : test + train], entries[:test]


def _questions(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Yields (question, answer, hint); a hint never holds the answer."""
    for one, many in _pairs(_PLURALS.split()):
        yield f"What is the plural of {one}?", many, _starts(many)
    for word, opposite in _pairs(_OPPOSITES.split()):
        yield f"What is the opposite of {word}?", opposite, _starts(opposite)
        yield f"What is the opposite of {opposite}?", word, _starts(word)
    for country, capital in (row.split() for row in _CAPITALS.split("|")):
        yield f"What is the capital of {country}?", capital, _starts(capital)
    for word in _LETTER_WORDS.split():
        yield f"What is the first letter of the word {word}?", word[0], f"Spell it: {' '.join(word)}."
        yield f"What is the last letter of the word {word}?", word[-1], f"Spell it: {' '.join(word)}."
    for name, row in (("day", _DAYS.split()), ("month", _MONTHS.split())):
        for this, following in zip(row, [*row[1:], row[0]], strict=True):
            yield f"Which {name} comes after {this}?", following, _starts(following)
            yield f"Which {name} comes before {following}?", this, _starts(this)
    for _ in range(80):
        low, high = sorted(rng.sample(range(2, 100), 2))
        pair = rng.sample([low, high], 2)
        yield f"Which number is larger, {pair[0]} or {pair[1]}?", str(high), "Compare the tens first, then the ones."


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    return list(zip(words[::2], words[1::2], strict=True))


def _starts(word: str) -> str:
    return f"It starts with the letter {word[0].upper()}."
