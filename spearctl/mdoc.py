"""Plain text as mdoc(7): what `--help` says, in the language of manual pages."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

WIDTH = 79

_MARKED = re.compile(
    r"(?P<before>(?:(?<=\s)|^)[(\[]?)"
    r"(?:`(?P<code>[^`]+)`|(?P<flag>--[a-z][a-z-]*))"
    r"(?P<after>[.,;:?!)\]]*)(?=\s|$)"
)
_SENTENCE = re.compile(r"(?<=[a-z)\]][.?!]) +(?=[A-Z])")
_CONTROL = re.compile(r"^([.'])", re.M)


def plain(text: str) -> str:
    """Escapes what has a meaning to the formatter; hyphens of options stay hyphens."""
    text = text.replace("\\", "\\e").replace("`", "")
    text = re.sub(r"(?<!\w)--?(?=\w)", lambda found: found[0].replace("-", "\\-"), text)
    return _CONTROL.sub(r"\\&\1", text)


def word(text: str) -> str:
    """One argument of a macro, never read as a macro itself or as punctuation."""
    text = plain(text).replace('"', "\\(dq")
    if " " in text:
        return f'"{text}"'
    return f"\\&{text}" if re.fullmatch(r"[A-Z][a-z]{0,2}|[%][A-Z]|[.,:;()\[\]?!|]", text) else text


def words(text: str) -> str:
    """The arguments of a macro, as many as there are words."""
    return " ".join(word(piece) for piece in text.split())


def flag(name: str) -> str:
    """An option: `--home` as ``Fl -home``."""
    return f"Fl {name.removeprefix('-')}"


def argument(name: str) -> str:
    """What stands for a value."""
    return f"Ar {word(name)}"


def paragraphs(whole: str) -> Iterator[str]:
    """Lines of paragraphs, which empty lines part."""
    for number, paragraph in enumerate(whole.strip().split("\n\n")):
        yield from ([".Pp"] if number else [])
        yield from text(" ".join(paragraph.split()))


def text(paragraph: str) -> Iterator[str]:
    """Lines of one paragraph, every sentence on its own; `commands` and --options are marked."""
    for sentence in _SENTENCE.split(paragraph.strip()):
        end = 0
        for found in _MARKED.finditer(sentence):
            yield from _wrapped(sentence[end : found.start()])
            macro, marked = ("Ql", word(found["code"])) if found["code"] else ("Fl", found["flag"][1:])
            yield f".{' '.join([macro, *found['before'], marked, *found['after']])}"
            end = found.end()
        yield from _wrapped(sentence[end:])


def _wrapped(piece: str) -> list[str]:
    lines = textwrap.wrap(piece.strip(), WIDTH, break_long_words=False, break_on_hyphens=False)
    return [plain(line) for line in lines]
