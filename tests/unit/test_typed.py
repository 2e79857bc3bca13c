"""What a line in a chat means."""

from __future__ import annotations

import pytest

from spearctl.typed import Nothing, Order, Question, Typed, Verdict, read_typed


def typed(*lines: str) -> list[Typed]:
    """All that is read of some lines."""
    left = list(lines)
    found = []
    while (one := read_typed(lambda goes_on: left.pop(0) if left else None)) is not None:
        found.append(one)
    return found


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("+", Verdict(True, None)),
        (" + ", Verdict(True, None)),
        ("+ well said", Verdict(True, "well said")),
        ("-", Verdict(False, None)),
        ("- too long", Verdict(False, "too long")),
        ("-\ttoo long ", Verdict(False, "too long")),
        ("- - 5", Verdict(False, "- 5")),
        ("-5 degrees is how much?", Question("-5 degrees is how much?")),
        ("+49 is which country?", Question("+49 is which country?")),
        ("--", Question("--")),
        ("/help", Order("help", "")),
        ("/system  Be brief. ", Order("system", "Be brief.")),
        ("/", Order("", "")),
        ("", Nothing()),
        ("   ", Nothing()),
        (" What? ", Question("What?")),
        ('""" + """', Question("+")),
        ('"""/help"""', Question("/help")),
        ('""""""', Nothing()),
        ("- one\n- two", Question("- one\n- two")),
    ],
)
def test_a_line_means(line: str, meant: Typed) -> None:
    assert typed(line) == [meant]


def test_a_backslash_goes_on_in_the_next_line() -> None:
    assert typed("one \\", "two\\", "+ three", "four") == [Question("one \ntwo\n+ three"), Question("four")]
    assert typed("- too \\", "long") == [Verdict(False, "too \nlong")]
    assert typed("at the end\\") == [Question("at the end")]


def test_between_quotes_all_is_a_question() -> None:
    lines = ('"""', "- one", "", "/two \\", '"""', "three")
    assert typed(*lines) == [Question("- one\n\n/two \\"), Question("three")]
    assert typed('  """one', 'two"""  ') == [Question("one\ntwo")]
    assert typed('"""', "never closed") == [Question("never closed")]


def test_it_is_told_which_lines_go_on() -> None:
    lines, asked = ["one\\", "two"], []

    def read(goes_on: bool) -> str:
        asked.append(goes_on)
        return lines.pop(0)

    read_typed(read)
    assert asked == [False, True]
