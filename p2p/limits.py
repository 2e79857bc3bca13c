"""How much of anything is too much. Whatever comes from elsewhere is held against these before it is looked into."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# Records.
MAX_NAME_CHARS = 64
MAX_GENESIS_BYTES = 256 * KIB
MAX_RECORD_BYTES = 4 * KIB
"""Any record but a genesis and the contents of a seal."""
MAX_SEAL_CONTENTS_BYTES = 4 * MIB
MAX_TICKET_CHARS = 4 * KIB
MAX_TENSORS = 4096
MAX_PARAMETERS = 1 << 28
MAX_ROSTER = 1024
MAX_CERTIFICATES_PER_MEMBER = 8
MAX_REVOCATIONS_PER_MEMBER = 8
"""By one issuer."""
MAX_PARENTS = 32
MAX_QUORUM = 16
MAX_WEIGHT_CAP = 1 << 16
MAX_ADDRESSES = 8
MAX_ADDRESS_CHARS = 255
MAX_NEARBY = 4
"""Addresses that the local network says, where anybody can say anything, tried besides those that are known."""

# The set.
ROUNDS_AHEAD = 8
"""Headers further above the head are dropped."""
MOST_UNSEALED_ROUNDS = 256
MAX_PENDING_HEADERS_PER_AUTHOR = 16
KEPT_BODIES = 2
"""Of an equivocation, unless a child asks for more."""
ALERT_VALUE = 7
"""A parameter beyond this raises a health line."""

# Messages.
MAX_MESSAGE_BYTES = 512 * KIB
CHUNK_BYTES = 256 * KIB
CHUNK_CREDIT = 4
"""Chunks asked for and not yet there, a link."""
MAX_IDS_PER_MESSAGE = 4096
MAX_RECORDS_PER_MESSAGE = 64
EAGER_LINKS = 4
"""A new record is pushed whole to so many links; the others are told its id."""

# Links.
MAX_DIALLED = 8
MAX_ACCEPTED = 64
MAX_UNKNOWN = 16
"""Links of join keys at a time."""

MESSAGE_BURST = 2000
MESSAGES_A_SECOND = 200
RECORD_BURST = 500
RECORDS_A_SECOND = 50
"""That nobody asked for."""
MOST_REMEMBERED_DROPS = 32

# Time, in seconds.
BEAT_S = 15.0
LINK_DEAD_S = 60.0
NULL_DELAY_S = (5.0, 15.0)
SEAL_DELAY_S = 180.0
TICKET_LIFE_S = 24 * 3600
PEER_RECORD_LIFE_S = 24 * 3600
ASK_AGAIN_S = 5.0
"""What was asked for and did not come is asked of somebody else."""
CHUNK_PATIENCE_S = 20.0
LACK_MEMORY_S = 10.0
REDIAL_S = (1.0, 60.0)
KNOWN_INSTANCES = 16
"""So many earlier runs of a node name themselves in its hello."""
INSTANCE_MEMORY_S = 600.0
"""Another instance of one identity seen this recently keeps both from signing."""

# Disk.
UNSEALED_QUOTA_BYTES = 4 * 1024 * MIB
