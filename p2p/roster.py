"""Who is a member, who may let others in, and whose deltas weigh nothing. Pure: records in, answers out.

A record is accepted when its author may say what it says; one that depends on a record that is not here yet is refused
with ``Missing``, and comes again. Nothing that was accepted is ever taken back: a revocation or a proof only lowers
weights, and only in rounds that are not sealed.

Certificates are given by the founder and by members whom the founder let in; members let in by others cannot invite.

Not covered: a member who signs true nonsense. It weighs its wins, at most the genesis's cap, until it is revoked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeVar

from p2p import limits
from p2p.encoding import digest
from p2p.errors import TrustError
from p2p.records import Body, Certificate, Genesis, Header, Invite, PeerRecord, Record, Revocation

B = TypeVar("B", bound=Body)


class Missing(Exception):
    """A record depends on another that is not here.

    Attributes:
        id: Of that other record, or of the member whose records are missing.
    """

    def __init__(self, id: bytes) -> None:
        super().__init__(id.hex())
        self.id = id


class Roster:
    """The members of a swarm.

    Args:
        genesis: The swarm's.

    Attributes:
        version: Rises whenever something is new.
    """

    def __init__(self, genesis: Genesis) -> None:
        self.genesis = genesis
        self._genesis_hash = genesis.hash
        self._certificates: dict[bytes, Record] = {}
        self._of_member: dict[bytes, list[bytes]] = {}
        self._by_transport: dict[bytes, set[bytes]] = {}
        self._invites: dict[bytes, Record] = {}
        self._join_keys: dict[bytes, bytes] = {}
        self._revocations: dict[bytes, Record] = {}
        self._equivocators: dict[bytes, bytes] = {}
        self._peers: dict[bytes, Record] = {}
        self._peer_ids: dict[bytes, bytes] = {}
        self._superseded: list[bytes] = []
        self.version = 0
        self._stood_at = -1
        self._stood: dict[bytes, None] = {}

    # What there is.

    def get(self, id: bytes) -> Record | None:
        """A certificate, invite, revocation or peer record by its id."""
        found = self._certificates.get(id) or self._invites.get(id) or self._revocations.get(id)
        return found or (self._peers[self._peer_ids[id]] if id in self._peer_ids else None)

    def holds(self, id: bytes) -> bool:
        """Whether a certificate, invite, revocation or peer record is here."""
        return self.get(id) is not None

    def certificate(self, id: bytes) -> Certificate:
        """A certificate.

        Raises:
            Missing: It is not here.
        """
        record = self._certificates.get(id)
        if record is None:
            raise Missing(id)
        assert isinstance(record.body, Certificate)
        return record.body

    def certificate_of(self, member: bytes) -> Record | None:
        """The certificate of a member; of several, the one with the smallest id that is in force."""
        found = [self._certificates[id] for id in sorted(self._of_member.get(member, ()))]
        good = [record for record in found if not self._is_revoked(_certificate(record))]
        return (good or found or [None])[0]  # type: ignore[list-item]  # no certificate, no record

    def certificates(self) -> tuple[Record, ...]:
        """All certificates, by id."""
        return tuple(self._certificates[id] for id in sorted(self._certificates))

    def invite(self, id: bytes) -> Invite | None:
        """An invite."""
        record = self._invites.get(id)
        return record.body if record and isinstance(record.body, Invite) else None

    def invite_of_transport(self, key: bytes) -> bytes | None:
        """The id of the invite whose join key this CURVE key is."""
        return self._join_keys.get(key)

    def holds_transport(self, member: bytes, key: bytes) -> bool:
        """Whether a member in good standing may come with a CURVE key."""
        return self.is_member(member) and any(
            _certificate(self._certificates[id]).transport == key for id in self._of_member[member]
        )

    def transports(self, member: bytes) -> tuple[bytes, ...]:
        """The CURVE keys that a member may come with."""
        return tuple(_certificate(self._certificates[id]).transport for id in self._of_member.get(member, ()))

    def admits(self, key: bytes) -> bool:
        """Whether a CURVE key is a member's in good standing."""
        return any(self.holds_transport(member, key) for member in self._by_transport.get(key, ()))

    def shuts_out(self, key: bytes) -> bool:
        """Whether a CURVE key was a member's, and is nobody's in good standing any more."""
        return key in self._by_transport and not self.admits(key)

    def is_member(self, member: bytes) -> bool:
        """Whether a node has a certificate in force, and was never caught saying two things at once."""
        return member in self._standing()

    def members(self) -> tuple[bytes, ...]:
        """The ids of all members in good standing, sorted."""
        return tuple(self._standing())

    def _standing(self) -> dict[bytes, None]:
        """Members in good standing, sorted; worked out anew when something changed."""
        if self._stood_at != self.version:
            said = {_revocation(record).member for record in self._revocations.values()} | self._equivocators.keys()
            members = (member for member in sorted(self._of_member) if member not in said or self._stands(member))
            self._stood_at, self._stood = self.version, dict.fromkeys(members)
        return self._stood

    def _stands(self, member: bytes) -> bool:
        given = (_certificate(self._certificates[id]) for id in self._of_member[member])
        return member not in self._equivocators and any(not self._is_revoked(certificate) for certificate in given)

    @property
    def is_full(self) -> bool:
        """Whether nobody else can become a member."""
        return len(self._of_member) >= limits.MAX_ROSTER

    def is_revoked_by(self, member: bytes, issuers: Collection[bytes]) -> bool:
        """Whether one of some members ended a membership."""
        said = map(_revocation, self._revocations.values())
        return any(revocation.member == member and revocation.issuer in issuers for revocation in said)

    def may_invite(self, member: bytes) -> bool:
        """Whether a member may let others in."""
        return self.is_member(member) and self._was_let_in_by_founder(member)

    @property
    def equivocators(self) -> frozenset[bytes]:
        """Members proven to have said two things at once."""
        return frozenset(self._equivocators)

    @property
    def revocations(self) -> tuple[Record, ...]:
        """All revocations, by id."""
        return tuple(self._revocations[id] for id in sorted(self._revocations))

    def peer(self, member: bytes) -> PeerRecord | None:
        """Where a member says that it can be reached."""
        record = self._peers.get(member)
        return record.body if record and isinstance(record.body, PeerRecord) else None

    def peer_record(self, member: bytes) -> Record | None:
        """The same, as it was signed."""
        return self._peers.get(member)

    def peer_records(self) -> tuple[Record, ...]:
        """All that is known of where members are."""
        return tuple(self._peers.values())

    def ids(self) -> tuple[bytes, ...]:
        """What two nodes compare, sorted: ids of all records that are here, and one id an equivocator."""
        records = (*self._certificates, *self._invites, *self._revocations, *self._peer_ids)
        return tuple(sorted((*records, *self._equivocators.values())))

    # What comes in.

    def add(self, record: Record) -> bool:
        """Takes a membership record.

        Returns:
            Whether it is new.

        Raises:
            Missing: Another record has to come first.
            TrustError: Its author may not say that.
        """
        match record.body:
            case Certificate() as body:
                return self._add_certificate(record, body)
            case Invite() as body:
                return self._add_invite(record, body)
            case Revocation() as body:
                return self._add_revocation(record, body)
            case PeerRecord() as body:
                return self._add_peer(record, body)
            case _:
                raise TrustError("not a membership record")

    def superseded(self) -> list[bytes]:
        """Ids of records that others took the place of since the last call."""
        ids, self._superseded = self._superseded, []
        return ids

    def add_equivocator(self, member: bytes) -> bool:
        """Takes note that a member was proven to say two things at once; whether that is new."""
        if member in self._equivocators:
            return False
        self.version += 1
        self._equivocators[member] = digest("equivocator", self._genesis_hash + member)
        return True

    def equivocator(self, id: bytes) -> bytes | None:
        """The member that an id of ``ids`` accuses."""
        return next((member for member, named in self._equivocators.items() if named == id), None)

    def _add_certificate(self, record: Record, body: Certificate) -> bool:
        if record.id in self._certificates:
            return False
        if body.issuer == body.member:
            if body.member != self.genesis.sealer:
                raise TrustError("a certificate that its member gave itself")
        else:
            issuer = self.certificate(body.issuer_certificate)
            if issuer.member != body.issuer:
                raise TrustError("a certificate that names another's certificate as its issuer's")
            if issuer.issuer != self.genesis.sealer:
                raise TrustError("a certificate by a member who may not invite")
        if self.is_full and body.member not in self._of_member:
            return False
        if len(self._of_member.get(body.member, ())) >= limits.MAX_CERTIFICATES_PER_MEMBER:
            return False
        self.version += 1
        self._certificates[record.id] = record
        self._of_member.setdefault(body.member, []).append(record.id)
        self._by_transport.setdefault(body.transport, set()).add(body.member)
        return True

    def _add_invite(self, record: Record, body: Invite) -> bool:
        if record.id in self._invites:
            return False
        # Whether its issuer is in good standing counts when it is used: what is accepted must not depend on the order.
        if not self._was_let_in_by_founder(body.issuer):
            raise Missing(body.issuer)
        if sum(invite.issuer == body.issuer for invite in map(_invite, self._invites.values())) >= limits.MAX_ROSTER:
            return False
        self.version += 1
        self._invites[record.id] = record
        self._join_keys[body.join_transport] = record.id
        return True

    def _add_revocation(self, record: Record, body: Revocation) -> bool:
        if record.id in self._revocations:
            return False
        if body.member == self.genesis.sealer:
            raise TrustError("a revocation of the founder")
        given = [_certificate(self._certificates[id]).issuer for id in self._of_member.get(body.member, ())]
        if body.issuer != self.genesis.sealer and body.issuer not in given:
            raise Missing(body.member)
        self.version += 1
        self._revocations[record.id] = record
        # A few a member and issuer are kept, since seals may name any of them; which must not depend on the order.
        alike = [
            known
            for known in self._revocations.values()
            if (_revocation(known).member, _revocation(known).issuer) == (body.member, body.issuer)
        ]
        if len(alike) > limits.MAX_REVOCATIONS_PER_MEMBER:
            last = max(alike, key=lambda known: (_revocation(known).from_round, known.id))
            del self._revocations[last.id]
            self._superseded.append(last.id)
            return last is not record
        return True

    def _add_peer(self, record: Record, body: PeerRecord) -> bool:
        if body.member not in self._of_member:
            raise Missing(body.member)
        known = self._peers.get(body.member)
        if known is not None and (_peer(known).number, known.id) >= (body.number, record.id):
            return False
        self.version += 1
        if known is not None:
            del self._peer_ids[known.id]
            self._superseded.append(known.id)
        self._peers[body.member] = record
        self._peer_ids[record.id] = body.member
        return True

    # What it means.

    def is_well_given(self, record: Record) -> bool:
        """Whether a certificate's issuer is not revoked."""
        body = _certificate(record)
        return body.member == body.issuer or not self._is_revoked(self.certificate(body.issuer_certificate))

    def _revoking(self, certificate: Certificate, among: Iterable[Revocation]) -> list[Revocation]:
        """The revocations that apply: the founder's, and those of whoever gave the certificate."""
        return [
            revocation
            for revocation in among
            if revocation.member == certificate.member
            and revocation.issuer in (self.genesis.sealer, certificate.issuer)
        ]

    def _is_revoked(self, certificate: Certificate) -> bool:
        return bool(self._revoking(certificate, map(_revocation, self._revocations.values())))

    def _was_let_in_by_founder(self, member: bytes) -> bool:
        return any(
            _certificate(self._certificates[id]).issuer == self.genesis.sealer for id in self._of_member.get(member, ())
        )

    def weight(
        self,
        header: Header,
        *,
        sealed_certificates: frozenset[bytes],
        revocations: Iterable[Revocation] | None = None,
        equivocators: frozenset[bytes] | None = None,
    ) -> int:
        """What a delta weighs: its wins up to the cap, or 0.

        It is 0 for a null delta, for an equivocator, for a member revoked from this round or an earlier one on, and for
        one whose certificate was given by somebody who is revoked, unless the last seal already names it.

        Args:
            header: Of a round above the last seal. Its certificate is here.
            sealed_certificates: Ids of the certificates that the last seal names.
            revocations: Those that count; all that are here by default. A seal is checked with its own.
            equivocators: Likewise.
        """
        if header.is_null or header.author in (self.equivocators if equivocators is None else equivocators):
            return 0
        certificate = self.certificate(header.certificate)
        said = [_revocation(record) for record in self._revocations.values()] if revocations is None else [*revocations]
        if any(revocation.from_round <= header.round for revocation in self._revoking(certificate, said)):
            return 0
        if certificate.member != certificate.issuer and header.certificate not in sealed_certificates:
            issuer = self.certificate(certificate.issuer_certificate)
            if self._revoking(issuer, said):
                return 0
        return min(header.wins, self.genesis.weight_cap)


def _certificate(record: Record) -> Certificate:
    assert isinstance(record.body, Certificate)
    return record.body


def _invite(record: Record) -> Invite:
    assert isinstance(record.body, Invite)
    return record.body


def _peer(record: Record) -> PeerRecord:
    assert isinstance(record.body, PeerRecord)
    return record.body


def _revocation(record: Record) -> Revocation:
    assert isinstance(record.body, Revocation)
    return record.body
