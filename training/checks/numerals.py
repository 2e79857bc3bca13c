r"""How a number is written, and what it is worth.

A numeral is, from left to right:

* a sign (``+``, ``-`` or U+2212), if any, directly before what follows and not directly behind a letter, a digit or a
  closing bracket: ``10-5`` holds 10 and 5;
* a currency sign, if any (``$ € £ ...``, also ``\$``), which is passed over; the sign may stand behind it: ``$-5``;
* digits 0 to 9, with a decimal point, or only behind one (``.5``). Digits before the point may be in groups of
  three, all parted by the same one of: comma, apostrophe, space, no-break space, thin space (``1,234.5``, ``1 234``).
  A comma is never a decimal mark;
* or a fraction ``3/4`` or a mixed number ``1 1/2`` of plain digits without spaces around the slash;
* an exponent, if any: ``e5``, ``E-5``, ``x 10^5``, ``× 10^{5}``, ``* 10^5``;
* a word that multiplies, if any: dozen, hundred, thousand, million, billion, trillion.

It begins neither inside a word nor inside another numeral (``H2O`` holds none), and is not followed by another
decimal part (``1.2.3``) nor by an ordinal's ending (``3rd``). More than 64 digits, those behind the decimal point
included, exponents beyond 308 and denominators of zero make none.

Not covered: numbers in words (``forty-two``), Unicode's fractions, LaTeX's ``\frac``, and decimal commas.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Context, Decimal
from fractions import Fraction
from typing import NamedTuple

import regex

_MOST_DIGITS = 64
_MOST_EXPONENT = 308

_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NUMERAL = regex.compile(
    r"""
    (?<![\w.]) (?>
        (?P<sign> (?<![\w)\]}]) [-+−] )?
        (?: \\? \p{Sc} [^\S\r\n]? (?P<inner_sign> [-−] )? )?
        (?:
            (?: (?P<whole> [0-9]+ ) [ ] )? (?P<over> [0-9]+ ) / (?P<under> [0-9]+ )
          | (?P<digits>
                [0-9]{1,3} (?P<gap> [,'’\u0020\u00a0\u2009\u202f] ) [0-9]{3} (?: (?P=gap) [0-9]{3} )* (?![0-9])
                (?: \.[0-9]+ )?
              | [0-9]+ (?: \.[0-9]+ )?
              | \.[0-9]+
            )
            (?: e (?P<exponent> [-+]?[0-9]+ )
              | [^\S\r\n]? [x×*] [^\S\r\n]? 10 [^\S\r\n]? \^ [^\S\r\n]? \{? (?P<power> [-+−]?[0-9]+ ) \}?
            )?
        )
        (?: [^\S\r\n] (?P<scale> dozen|hundred|thousand|million|billion|trillion ) \b )?
    )
    (?! [0-9] | \.[0-9] | /[0-9] | (?:st|nd|rd|th) \b )
    """,
    regex.IGNORECASE | regex.VERBOSE,
)


class Numeral(NamedTuple):
    """A number as it stands in a text.

    Attributes:
        value: What it is worth, exactly.
        start: Offset of its first character in the text.
        end: Offset just after its last character.
    """

    value: Fraction
    start: int
    end: int


def numerals(text: str) -> Iterator[Numeral]:
    """The numerals of a text, in order."""
    for match in _NUMERAL.finditer(text):
        value = _value(match.groupdict())
        if value is not None:
            yield Numeral(value, match.start(), match.end())


def canonical(value: Fraction) -> str:
    """The one way to write a number: its decimals where at most 700 digits say it, else a fraction in lowest terms."""
    places = Context(prec=700).divide(Decimal(value.numerator), Decimal(value.denominator))
    if Fraction(places) != value:
        return f"{value.numerator}/{value.denominator}"
    plain = f"{places:f}"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _value(parts: dict[str, str | None]) -> Fraction | None:
    if any(part is not None and sum(map(str.isdigit, part)) > _MOST_DIGITS for part in parts.values()):
        return None
    if parts["digits"] is None:
        size = _fraction(parts["whole"], parts["over"] or "", parts["under"] or "")
    else:
        size = _decimal(parts["digits"], parts["gap"], (parts["exponent"] or parts["power"] or "0").replace("−", "-"))
    if size is None:
        return None
    size *= _SCALES[parts["scale"].lower()] if parts["scale"] else 1
    return -size if (parts["sign"] or "+") in "-−" or parts["inner_sign"] else size


def _fraction(whole: str | None, over: str, under: str) -> Fraction | None:
    if int(under) == 0:
        return None
    return int(whole or "0") + Fraction(int(over), int(under))


def _decimal(digits: str, gap: str | None, exponent: str) -> Fraction | None:
    power = int(exponent)
    if abs(power) > _MOST_EXPONENT:
        return None
    return Fraction(digits.replace(gap, "") if gap else digits) * Fraction(10) ** power
