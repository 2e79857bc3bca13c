"""Hardware profiles: how much work a device takes on at once, and which profile suits this one.

A profile is a TOML file; the shipped ones lie beside this module and `cpu.toml` explains every field.
The usual way through:

    hardware = detect()
    profile = resolve(load(choose(hardware).profile), hardware)
"""

from __future__ import annotations

from profiles.detect import Choice, Hardware, choose, detect, resolve
from profiles.errors import ProfileError
from profiles.profile import MEANINGS, NAMING, Profile, dumps, is_free, is_path, load, misnamed, names

__all__ = [
    "MEANINGS",
    "NAMING",
    "Choice",
    "Hardware",
    "Profile",
    "ProfileError",
    "choose",
    "detect",
    "dumps",
    "is_free",
    "is_path",
    "load",
    "misnamed",
    "names",
    "resolve",
]
