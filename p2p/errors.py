"""What can go wrong in the swarm, as one small tree.

P2PError
 +- WireError         bytes from elsewhere are not what they claim to be
 |   +- PayloadError  a delta's payload is damaged, of another shape, or too large
 +- TrustError        a signature, a certificate or a key does not hold
 |   +- IdentityError    this node's own keys are missing, damaged or locked
 |   +- TicketError      a ticket is damaged, expired, used, or for another swarm
 +- LedgerError       what this node keeps on disk is damaged, full or newer
 +- NetworkError      nobody can be reached, or an address cannot be used
"""

from __future__ import annotations


class P2PError(Exception):
    """Base of the swarm's errors.

    Attributes:
        message: What happened, with the value and the place, for a person.
        hint: The command or edit that mends it, if there is one.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class WireError(P2PError):
    """Bytes from elsewhere are not what they claim to be."""


class PayloadError(WireError):
    """A delta's payload is damaged, of another shape, or too large."""


class TrustError(P2PError):
    """A signature, a certificate or a key does not hold."""


class IdentityError(TrustError):
    """This node's own keys are missing, damaged or locked."""


class TicketError(TrustError):
    """A ticket is damaged, expired, used, or for another swarm."""


class LedgerError(P2PError):
    """What this node keeps on disk is damaged, full or newer."""


class NetworkError(P2PError):
    """Nobody can be reached, or an address cannot be used."""
