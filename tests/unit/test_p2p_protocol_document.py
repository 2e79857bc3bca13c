"""docs/protocol.md says what the code does: each structure, number and result vector in it is held against the code."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2p import encoding, limits, records, tickets, wire
from p2p.codec import decode_payload, decode_state
from p2p.encoding import digest, encode
from p2p.fold import add, fold_round
from p2p.grid import clip_to_norm, rounddiv, state_hash
from p2p.joining import invite_id
from p2p.replica import Replica
from p2p.tickets import Endpoint, Ticket
from tests.vectors import parts, small_genesis
from training.adapters import AdapterShape, TensorShape, initial_adapter

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")

Rows = list[list[str]]
Vector = dict[str, str]

_NAMED = re.compile(r"\*\*(\w+)\*\*, (?:tag `([a-z ]+)`|no tag)")


# Reading the document.


def read_tables() -> list[Rows]:
    """All tables, as rows of cells; the first row is the head."""
    blocks = re.findall(r"(?:^\|.*\n)+", TEXT, re.M)
    found = [[[cell.strip() for cell in row.strip("|").split("|")] for row in block.splitlines()] for block in blocks]
    return [[rows[0], *rows[2:]] for rows in found]


def read_vectors() -> dict[str, Vector]:
    """All blocks of results by name; what is indented goes on with the line before."""
    found: dict[str, Vector] = {}
    for name, body in re.findall(r"^```vector ([\w ]+)\n(.*?)^```$", TEXT, re.M | re.S):
        assert name not in found
        found[name] = {}
        key = ""
        for line in body.splitlines():
            if line.startswith(" "):
                found[name][key] += line.strip()
            else:
                key, _, value = line.partition(" = ")
                assert key not in found[name]
                found[name][key] = value
    return found


def bare(cell: str) -> str:
    """What a cell holds between backticks."""
    assert re.fullmatch(r"`[^`]+`", cell), cell
    return cell[1:-1]


TABLES = read_tables()
WRITTEN = read_vectors()


def table(*head: str) -> Rows:
    """The rows of the one table with this head."""
    (found,) = [rows[1:] for rows in TABLES if tuple(rows[0]) == head]
    return found


# Structures.


def travelling() -> dict[str, type[msgspec.Struct]]:
    """All structures of the protocol, by the names of their classes."""
    found = [kind for module in (records, wire, tickets) for _, kind in inspect.getmembers(module, inspect.isclass)]
    return {
        kind.__name__: kind for kind in found if issubclass(kind, msgspec.Struct) and kind.__struct_config__.array_like
    }


MESSAGES = {str(kind.__struct_config__.tag): kind for kind in typing.get_args(wire.Message)}
STRUCTURES = {name: kind for name, kind in travelling().items() if kind not in MESSAGES.values()}


def number(value: int) -> str:
    is_power = value >= 1 << 20 and value & (value - 1) == 0
    return f"2^{value.bit_length() - 1}" if is_power else str(value)


def bounds(least: int | None, most: int | None) -> str:
    if most is None:
        return ""
    return f" {number(most)}" if least == most else f" {number(least or 0)}..{number(most)}"


def spelled(info: msgspec.inspect.Type) -> str:
    """A type as the document writes it."""
    match info:
        case msgspec.inspect.BytesType(min_length=least, max_length=most):
            return "bin" + bounds(least, most)
        case msgspec.inspect.StrType(min_length=least, max_length=most):
            return "str" + bounds(least, most)
        case msgspec.inspect.IntType(ge=least, le=most):
            return "uint" + bounds(least, most)
        case msgspec.inspect.BoolType():
            return "bool"
        case msgspec.inspect.NoneType():
            return "nil"
        case msgspec.inspect.LiteralType(values=values):
            return ", ".join(sorted(map(repr, values))).replace("'", '"')
        case msgspec.inspect.VarTupleType(item_type=item, min_length=least, max_length=most):
            return f"list{bounds(least, most)} of {spelled(item)}"
        case msgspec.inspect.UnionType(types=types):
            return " or ".join(map(spelled, types))
        case msgspec.inspect.StructType(cls=kind):
            return kind.__name__
    raise NotImplementedError(info)


def fields(kind: type[msgspec.Struct]) -> list[tuple[str, str]]:
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    return [(field.name, spelled(field.type)) for field in info.fields]


def fields_in(cell: str) -> list[tuple[str, str]]:
    """The names and types that a cell lists."""
    assert re.fullmatch(r"`\w+` `[^`]+`(, `\w+` `[^`]+`)*", cell), cell
    return re.findall(r"`(\w+)` `([^`]+)`", cell)


def test_every_structure_is_written_as_it_is_encoded() -> None:
    said, tags = {}, {}
    for rows in TABLES:
        named = _NAMED.fullmatch(rows[0][0])
        if named:
            assert rows[0][1:] == ["type", "meaning"]
            said[named[1]] = [(bare(row[0]), bare(row[1])) for row in rows[1:]]
            tags[named[1]] = named[2]
        elif rows[0] == ["structure", "tag", "fields", "meaning"]:
            said |= {bare(row[0]): fields_in(row[2]) for row in rows[1:]}
            tags |= {bare(row[0]): None if row[1] == "none" else bare(row[1]) for row in rows[1:]}
    assert said == {name: fields(kind) for name, kind in STRUCTURES.items()}
    assert tags == {name: kind.__struct_config__.tag for name, kind in STRUCTURES.items()}


def test_every_message_is_written_as_it_is_encoded() -> None:
    said = {bare(message): fields_in(cell) for message, cell, _ in table("message", "fields", "meaning")}
    assert said == {tag: fields(kind) for tag, kind in MESSAGES.items()}


def test_of_every_message_it_is_said_when_it_is_sent_and_what_the_receiver_does() -> None:
    rows = table("message", "is sent", "the receiver")
    assert [bare(row[0]) for row in rows] == list(MESSAGES)
    assert all(len(row) == 3 and all(row) for row in rows)


# Numbers.


def named_values(what: str) -> list[tuple[str, str]]:
    """Names and values of a table that goes on in a second group of columns."""
    group = (what, "value", "of what")
    cells = [row[first : first + 3] for first in (0, 3) for row in table(*group, *group)]
    return [(name, value) for name, value, of_what in cells if name and of_what]


def test_every_limit_is_in_the_table_with_its_value() -> None:
    said = {bare(name): ast.literal_eval(value) for name, value in named_values("limit")}
    assert said == {name: value for name, value in vars(limits).items() if name.isupper()}
    assert set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", TEXT)) <= said.keys() | {"FAR_BEHIND"}


def test_the_other_numbers_are_those_of_the_code() -> None:
    rows = named_values("number")
    assert rows
    for name, value in rows:
        module, _, attribute = bare(name).rpartition(".")
        assert ast.literal_eval(value) == getattr(importlib.import_module(module), attribute), name


def test_the_weak_keys_are_all_there() -> None:
    said = {int(bare(row[0]), 16) for row in table("y", "order")}
    assert said == encoding._WEAK


# Vectors.

GENESIS = small_genesis()
SWARM = GENESIS.hash
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ME = KEY.public_key().public_bytes_raw()
SECRET = bytes(range(100, 132))
WEIGHTS = (1, 5, 0, 32, 7, 2, 9)
PAYLOAD = (
    "5350440128b52ffd20901d0300640580007b22782e6c6f72615f41223a7b226474797065223a22493136222c227368617065223a5b312c32"
    "5d2c22646174615f6f666673657473223a5b302c345d7d2c42322c31342c385d7d7d20202001ff000100ff01800400c01bb0f783f02006b0"
)
STATE = "5350530128b52ffd20147d00004801ffff0000007f80000100304a11"


def h(value: int) -> bytes:
    """A hash, or a key."""
    return bytes([value] * 32)


CONTENTS = records.SealContents(
    deltas=(records.SealedDelta(1, h(5), h(6)), records.SealedDelta(2, h(7), h(8))),
    certificates=(h(9),), revocations=(), equivocators=(h(7),),
)  # fmt: skip
TICKET = Ticket(
    genesis=SWARM, name="vectors", issuer=ME, endpoints=(Endpoint("192.168.1.20:4242", h(12)),),
    expires_s=1_800_000_000, seal=records.NONE, seal_height=0, secret=SECRET,
)  # fmt: skip
JOIN_KEYS = TICKET.join_keys()
BODIES: dict[str, records.Body] = {
    "certificate": records.Certificate(
        genesis=SWARM, member=h(5), transport=h(6), name="ben", issuer=ME, issuer_certificate=h(7), invite=h(8)
    ),
    "delta": records.Header(
        genesis=SWARM, author=ME, round=3, prev=h(5), parents=(h(6), h(7)), certificate=h(8), wins=16, payload=h(9),
        payload_bytes=70_000, base_state=h(10),
    ),
    "seal": records.Seal(
        genesis=SWARM, height=1, previous=SWARM, round=2, contents=CONTENTS.hash, contents_bytes=len(encode(CONTENTS)),
        state=h(11), sealer=ME,
    ),
}  # fmt: skip


def numbers(values: Any) -> str:
    return " ".join(str(int(value)) for value in values)


def primitives() -> Vector:
    values = {
        "uint 127": 127, "uint 128": 128, "uint 65536": 65536, "true": True, "nil": None, "str of 32 a": "a" * 32,
        "bin 01": b"\1", "list of 1 and a list of 2": (1, (2,)),
    }  # fmt: skip
    return {name: encode(value).hex() for name, value in values.items()}


def genesis() -> Vector:
    return {"encoded": encode(GENESIS).hex(), "hash": SWARM.hex()}


def signed() -> Vector:
    found = {}
    for name, body in BODIES.items():
        record = records.sign_record(KEY, body)
        found[f"{name} body"] = record.signed.body.hex()
        found[f"{name} id"] = record.id.hex()
        found[f"{name} signature"] = record.signed.signature.hex()
    return {**found, "contents of the seal": encode(CONTENTS).hex()}


def ticket() -> Vector:
    return {
        "text": tickets.write(TICKET),
        "join key": JOIN_KEYS.sign.public_key().public_bytes_raw().hex(),
        "join transport": JOIN_KEYS.transport_public.hex(),
        "invite": invite_id(TICKET).hex(),
    }


def join() -> Vector:
    made = wire.make_join(
        genesis=SWARM, invite=invite_id(TICKET), transport=h(6), name="ben", leaving=records.NONE, key=KEY,
        join_key=JOIN_KEYS.sign,
    )  # fmt: skip
    return {
        "signed": encode((made.genesis, made.invite, made.member, made.transport, made.name, made.leaving)).hex(),
        "member_signature": made.member_signature.hex(),
        "join_signature": made.join_signature.hex(),
        "sha256 of the message": hashlib.sha256(wire.write_message(made)).hexdigest(),
    }


def messages() -> Vector:
    made: list[wire.Message] = [
        wire.WantSeals(3), wire.Have((h(1),)), wire.Compare((wire.RoundDigest(0, h(2)),), True),
        wire.Tip(header=None, seal=None, contested=False), wire.Bye("a second link"),
    ]  # fmt: skip
    written = {str(type(message).__struct_config__.tag): wire.write_message(message).hex() for message in made}
    return {**written, "accusation of 07": digest("equivocator", SWARM + h(7)).hex()}


def digests() -> Vector:
    replica = Replica(GENESIS, bytes(32))
    one = digest("ids", h(1) + h(2))
    return {
        "round of nothing": replica.round_digest(1).hex(),
        "set of nothing": replica.set_digest().hex(),
        "round of 01 and 02": one.hex(),
        "set of that as round 5": digest("rounds", (5).to_bytes(8, "big") + one).hex(),
    }


def rounding() -> Vector:
    rows = ((1, 2), (-1, 2), (1, 3), (-2, 3), (127, 256), (128, 256), (-128, 256), (2**55 + 1, 2))
    return {f"{top} / {bottom}": numbers(rounddiv(np.array([top]), bottom)) for top, bottom in rows}


def clipping() -> Vector:
    rows = (((3, -4), 5), ((3, -4), 4), ((30, 40, 0, -120), 13), ((1, 1, 1), 1), ((-32767, 32767), 1000))
    return {
        f"{numbers(values)} to {bound}": numbers(clip_to_norm(np.array(values, dtype=np.int16), bound))
        for values, bound in rows
    }


def payload() -> Vector:
    raw = bytes.fromhex(PAYLOAD)
    shapes = (records.TensorSpec("x.lora_A", 1, 2), records.TensorSpec("x.lora_B", 2, 1))
    return {
        "payload": PAYLOAD,
        "content": zstandard.decompress(raw[4:]).hex(),
        "values": numbers(decode_payload(raw, shapes, 200_000)),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }


def state() -> Vector:
    shapes = (records.TensorSpec("x.lora_A", 1, 4), records.TensorSpec("x.lora_B", 1, 1))
    small = small_genesis(tensors=shapes)
    values = decode_state(bytes.fromhex(STATE), small)
    return {
        "blob": STATE,
        "content": zstandard.decompress(bytes.fromhex(STATE)[4:]).hex(),
        "values": numbers(values),
        "zeros": state_hash(np.zeros(38, dtype=np.int32), GENESIS).hex(),
        "counting": state_hash(np.arange(38, dtype=np.int32), GENESIS).hex(),
    }


def folded() -> Vector:
    found = {}
    for rule in ("fedavg", "trimmed_mean", "median"):
        for share in ("both", "b", "alternate"):
            swarm = small_genesis(rule=rule, share=share)
            total = np.zeros(swarm.parameters, dtype=np.int32)
            for round in (1, 2):
                total = add(total, fold_round(swarm, round, parts(swarm, round, WEIGHTS)))
            found[f"{rule} {share}"] = f"{numbers(total[10:14])} {state_hash(total, swarm).hex()}"
    return found


def start() -> Vector:
    shape = AdapterShape(2, 4, (TensorShape("a.lora_A", 2, 5), TensorShape("a.lora_B", 3, 2)))
    adapter = initial_adapter(h(1).hex(), shape)
    return {"shape": shape.digest().hex(), "a.lora_A": numbers(adapter["a.lora_A"].ravel() * 2**20)}


VECTORS: dict[str, Callable[[], Vector]] = {
    "encoding": primitives,
    "genesis": genesis,
    "start": start,
    "rounding": rounding,
    "clipping": clipping,
    "payload": payload,
    "folded": folded,
    "state": state,
    "digests": digests,
    "messages": messages,
    "records": signed,
    "ticket": ticket,
    "join": join,
}


def test_the_document_has_these_vectors() -> None:
    assert list(WRITTEN) == list(VECTORS)


@pytest.mark.parametrize("name", VECTORS)
def test_the_code_gives_the_vectors_that_the_document_names(name: str) -> None:
    assert VECTORS[name]() == WRITTEN[name]


def test_the_invite_of_the_ticket_is_the_one_that_its_issuer_signs() -> None:
    keys = tickets.derive_join_keys(SWARM, SECRET)
    invite = records.Invite(
        genesis=SWARM, issuer=ME, join_key=keys.sign.public_key().public_bytes_raw(),
        join_transport=keys.transport_public, expires_s=TICKET.expires_s,
    )  # fmt: skip
    assert records.sign_record(KEY, invite).id.hex() == WRITTEN["ticket"]["invite"]
