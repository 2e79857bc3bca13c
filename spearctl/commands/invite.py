"""`spearctl invite`: writes a ticket for one device. Only this founds a swarm, where there is none."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from spearctl import swarm
from spearctl.command import command, group
from spearctl.config import Config
from spearctl.errors import UsageError
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.sharing import luggage
from spearctl.text import duration, tilde

commands = group()

RECOVERY_FILE = "recovery.pem"
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
MOST_DAYS = 365


@dataclass(frozen=True, slots=True)
class InviteResult(Result):
    """A ticket, and what to know about it."""

    ticket: str
    file: Path | None
    founded: str | None
    life_s: int
    addresses: tuple[str, ...]
    warnings: tuple[str, ...]
    recovery: Path | None
    next_lines: tuple[str, ...]

    def data(self) -> Mapping[str, Any]:
        return {
            "ticket": None if self.file else self.ticket,
            "file": self.file,
            "founded": self.founded,
            "expires_in_s": self.life_s,
            "addresses": self.addresses,
            "warnings": self.warnings,
            "recovery": self.recovery,
        }

    def render(self, console: Page) -> None:
        if self.founded:
            console.title(f"Founded the swarm {self.founded}")
        if self.recovery is not None:
            console.print(f"its recovery key is {tilde(self.recovery)}: move it to a safe place off this device")
        what = f"a ticket for one device, good for {duration(self.life_s)}, by {', '.join(self.addresses)}"
        if self.file:
            console.print(f"{tilde(self.file)}: {what}. It is a secret until it is used")
        else:
            console.print(f"{what}. It is a secret until it is used:")
            console.print()
            console.print(self.ticket, soft_wrap=True)
            console.print()
        console.health(self.warnings)
        console.next_steps(*self.next_lines)


@command(commands, "invite")
def invite(
    run: Run,
    expires: Annotated[str, typer.Option(metavar="TIME", help="How long it is good for: 30m, 24h, 7d.")] = "24h",
    addr: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="An address by which others reach this device. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the ticket to a file that only you can read.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What to call the swarm, if this founds it.")] = None,
) -> InviteResult:
    """Writes a ticket that lets one device in.

    Where this home belongs to no swarm, one is founded first; what was learned so far becomes the beginning of what is
    shared.
    """
    life_s = lifetime(expires)
    config = run.config()
    who = swarm.identity(run, make=True)
    places = swarm.places(run)
    founded, recovery = None, None
    if not places.is_member:
        founded, recovery = found(run, config, who, name or f"{config.name}'s")
    elif name is not None:
        raise UsageError("this home belongs to a swarm already, which has a name", "leave --name out")
    told, text = ticket(run, config, who, list(addr or []), life_s)
    if out is not None:
        _write(out, text)
    return InviteResult(
        ticket=text,
        file=out,
        founded=founded,
        life_s=life_s,
        addresses=told,
        warnings=_warnings(told),
        recovery=recovery,
        next_lines=_next_lines(run, out),
    )


def lifetime(text: str) -> int:
    """Seconds of ``30m``, ``24h`` or ``7d``.

    Raises:
        UsageError: It is none of these.
    """
    match = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    seconds = int(match[1]) * UNITS_S[match[2]] if match else 0
    if not 0 < seconds <= MOST_DAYS * UNITS_S["d"]:
        raise UsageError(f"{text!r} is no time", "write it as 30m, 24h or 7d, a year at most")
    return seconds


def found(run: Run, config: Config, who: Any, name: str) -> tuple[str, Path]:
    """Founds a swarm; its name, and where its recovery key is."""
    from cryptography.hazmat.primitives import serialization

    from p2p import moving
    from p2p.founding import new_genesis, new_recovery_key

    key = new_recovery_key()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = run.home.root / RECOVERY_FILE
    _write(path, pem.decode())
    genesis = new_genesis(
        name=name,
        fingerprint=bytes.fromhex(config.model_fingerprint),
        prompt_format=config.prompt_format,
        system_prompt=config.system_prompt or "",
        rank=config.adapter.rank,
        alpha=config.adapter.alpha,
        tensors=swarm.tensors(run, config),
        sealer=who.node_id,
        recovery=key.public_key().public_bytes_raw(),
    )
    moving.found(swarm.places(run), who, genesis, config.name, luggage(run))
    return genesis.name, path


def ticket(run: Run, config: Config, who: Any, extra: list[str], life_s: int) -> tuple[tuple[str, ...], str]:
    """A ticket from the running node, or from the ledger where none runs; and the addresses in it."""
    from p2p import addresses
    from p2p.tickets import read

    for address in extra:
        addresses.parse(address)
    if swarm.is_running(run):
        known = tuple(swarm.ask(run, "status")["addresses"])
        told = tuple(dict.fromkeys([*extra, *known]))[:8]
        text = swarm.ask(run, "invite", addresses=list(told), life_s=life_s)["ticket"]
    else:
        told = addresses.advertised(config.listen, [*extra, *config.advertise]) if _port(config) else tuple(extra)
        text = _offline_ticket(run, who, told, life_s)
    return tuple(endpoint.address for endpoint in read(text).endpoints), text


def _port(config: Config) -> int:
    from p2p.addresses import parse

    return parse(config.listen, listen=True).port


def _offline_ticket(run: Run, who: Any, told: tuple[str, ...], life_s: int) -> str:
    from p2p.founding import author_of_home, genesis_of
    from p2p.ledger import Ledger
    from p2p.member import Member
    from p2p.node import make_ticket

    with Ledger(swarm.places(run).swarm) as ledger:
        now_s = int(time.time())
        member = Member(
            genesis_of(ledger),
            author_of_home(ledger, who),
            ledger,
            rng=random.Random(),
            instance=os.urandom(16),
            now=0.0,
            clock_s=now_s,
        )
        text, record = make_ticket(member, who, told, life_s=life_s, now_s=now_s)
        member.add_own(record, now=0.0, clock_s=now_s)
    return text


def _warnings(told: tuple[str, ...]) -> tuple[str, ...]:
    from p2p.addresses import warnings

    return tuple(warnings(told))


def _next_lines(run: Run, out: Path | None) -> tuple[str, ...]:
    there = f"spearctl join {out.name if out else 'TICKET'}   (on the other device)"
    return (there,) if swarm.is_running(run) else (run.spell("up", "--detach"), there)


def _write(path: Path, text: str) -> None:
    """Writes a secret for its owner alone.

    Raises:
        UsageError: There is a file of that name.
    """
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text + ("" if text.endswith("\n") else "\n"))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise UsageError(f"{path} exists", "choose another file, or remove that one") from error
