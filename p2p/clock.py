"""The threshold clock: a round is open to who can cite enough others in the round before. Pure: reads a replica."""

from __future__ import annotations

from p2p import limits
from p2p.replica import Replica

Room = tuple[int, tuple[bytes, ...]]
"""A round that is open, and the parents to cite there."""


def open_round(replica: Replica, author: bytes, last: int, base: int = 0) -> Room | None:
    """The round in which an author may sign next, and the parents to cite; None where it has to wait for others.

    What was learned without the head round joins it, so that what is learned at the same time is averaged; what was
    learned on top of it opens the next, so that it is added.

    Args:
        replica: What the author holds.
        author: Node id.
        last: The last round it ever signed; 0 for none.
        base: The head round of the state that it learned on.
    """
    head, sealed = replica.head, replica.sealed.round
    for round in (max(head, 1), head + 1):
        if round <= max(last, min(base, head)):
            continue
        if round <= sealed or round > sealed + limits.MOST_UNSEALED_ROUNDS:
            continue
        if author in replica.authors(round):
            continue
        parents = citable(replica, round - 1, author)
        if round == 1 or len(parents) >= replica.genesis.quorum:
            return round, parents
    return None


def is_short(replica: Replica, author: bytes) -> bool:
    """Whether somebody waits in the head round for others to join it, and the author has not."""
    authors = replica.authors(replica.head)
    return replica.head > replica.sealed.round and author not in authors and len(authors) <= replica.genesis.quorum


def citable(replica: Replica, round: int, author: bytes) -> tuple[bytes, ...]:
    """Ids to cite of a round, one of each other author, sorted."""
    if round < 1:
        return ()
    if round == replica.sealed.round:
        found = {delta.author: delta.id for delta in replica.sealed.frontier}
    else:
        found = {replica.header(id).author: id for id in replica.in_round(round)[::-1]}
    found.pop(author, None)
    return tuple(sorted(found.values())[: limits.MAX_PARENTS])
