"""Identities that are the same in every run, made once a process."""

from __future__ import annotations

import hashlib
from functools import cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2p.identity import Identity


@cache
def person(number: int) -> Identity:
    """An identity; 0 is the founder's."""
    seeds = (hashlib.sha256(f"simulated {kind} {number}".encode()).digest() for kind in ("key", "transport"))
    return Identity(Ed25519PrivateKey.from_private_bytes(next(seeds)), next(seeds))
