"""Weights and folds, written a second time, in Python's own integers: what the real ones are held against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np

from p2p.grid import Fine
from p2p.records import Certificate, Genesis, Header, Revocation, Seal
from tests.simulation.evidence import Evidence

Sum = tuple[int, ...]


class Oracle:
    """Answers from all evidence there is.

    Args:
        genesis: The swarm's.
        evidence: Holds records and payloads.
    """

    def __init__(self, genesis: Genesis, evidence: Evidence) -> None:
        self._genesis = genesis
        self._evidence = evidence
        self._rounds: dict[tuple[int, tuple[tuple[bytes, int], ...]], Sum] = {}
        self._sealed: dict[bytes, Sum] = {genesis.hash: (0,) * genesis.parameters}

    def state(self, seal: bytes, rounds: Iterable[tuple[int, tuple[tuple[bytes, int], ...]]]) -> Fine:
        """The state of whoever holds a seal and rounds above it."""
        total = self._sum([self.sealed(seal), *(self.round_sum(*entry) for entry in rounds)])
        return np.array([(value + 2**31) % 2**32 - 2**31 for value in total], dtype=np.int64).astype(np.int32)

    def sealed(self, id: bytes) -> Sum:
        """The state at a seal, by the deltas that it and those before it count."""
        if id not in self._sealed:
            seal = self._evidence.records[id].body
            assert isinstance(seal, Seal)
            before = self._evidence.records.get(seal.previous)
            known, accused = frozenset[bytes](), frozenset[bytes]()
            if before is not None:
                assert isinstance(before.body, Seal)
                contents = self._evidence.contents(before.body)
                known, accused = frozenset(contents.certificates), frozenset(contents.equivocators)
            contents = self._evidence.contents(seal)
            said = [self._evidence.records[id].body for id in contents.revocations]
            rounds: dict[int, list[tuple[bytes, int]]] = {}
            for delta in contents.deltas:
                header = self._evidence.header(delta.id)
                assert header is not None
                weight = self.weight(header, said, accused | frozenset(contents.equivocators), known)  # type: ignore[arg-type]
                if weight:
                    rounds.setdefault(delta.round, []).append((delta.id, weight))
            sums = [self.round_sum(round, tuple(parts)) for round, parts in sorted(rounds.items())]
            self._sealed[id] = self._sum([self.sealed(seal.previous), *sums])
        return self._sealed[id]

    def weight(
        self, header: Header, revocations: Sequence[Revocation], accused: Iterable[bytes], sealed: frozenset[bytes]
    ) -> int:
        """What a delta weighs."""
        certificate = self._certificate(header.certificate)
        founder = self._genesis.sealer

        def revoking(of: Certificate) -> list[Revocation]:
            who = {founder, of.issuer}
            return [said for said in revocations if said.member == of.member and said.issuer in who]

        if not header.payload or header.author in accused:
            return 0
        if [said for said in revoking(certificate) if header.round >= said.from_round]:
            return 0
        is_new = certificate.issuer != certificate.member and header.certificate not in sealed
        if is_new and revoking(self._certificate(certificate.issuer_certificate)):
            return 0
        return header.wins if header.wins < self._genesis.weight_cap else self._genesis.weight_cap

    def round_sum(self, round: int, parts: tuple[tuple[bytes, int], ...]) -> Sum:
        """What a round adds."""
        if (round, parts) not in self._rounds:
            rows = [[int(value) for value in self._evidence.delta(id)] for id, _ in parts]
            self._rounds[round, parts] = tuple(
                self._middle(column, [weight for _, weight in parts]) for column in zip(*rows, strict=True)
            ) or ((0,) * self._genesis.parameters)
        return self._rounds[round, parts]

    def _middle(self, values: Sequence[int], weights: Sequence[int]) -> int:
        if self._genesis.rule == "fedavg":
            return _nearest(Fraction(256 * sum(v * w for v, w in zip(values, weights, strict=True)), sum(weights)))
        if len(values) < 3:
            return 0
        cut = (len(values) - 1) // 2 if self._genesis.rule == "median" else max(1, len(values) // 5)
        kept = sorted(values)[cut:-cut]
        return _nearest(Fraction(256 * sum(kept), len(kept)))

    def _certificate(self, id: bytes) -> Certificate:
        body = self._evidence.records[id].body
        assert isinstance(body, Certificate)
        return body

    def _sum(self, vectors: Sequence[Sum]) -> Sum:
        return tuple(map(sum, zip(*vectors, strict=True)))


def _nearest(value: Fraction) -> int:
    """Halves away from zero."""
    away = int(abs(value) + Fraction(1, 2))
    return away if value >= 0 else -away
