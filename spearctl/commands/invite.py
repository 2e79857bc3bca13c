"""`spearctl invite`: writes a ticket for one device. Only this founds a swarm, where there is none."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spearctl import sharing, swarm
from spearctl.command import command, group
from spearctl.config import Config
from spearctl.errors import UsageError
from spearctl.output import Page, Result
from spearctl.run import Run
from spearctl.text import seconds, tilde

if TYPE_CHECKING:
    from p2p.identity import Identity

commands = group()

MOST_NAME_CHARS = 64


@dataclass(frozen=True, slots=True)
class InviteResult(Result):
    """A ticket, and what to know about it."""

    ticket: str
    file: Path | None
    founded: str | None
    life: str
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
        what = f"a ticket for one device, good for {self.life}, which leads to {', '.join(self.addresses)}"
        if self.file:
            console.print(
                f"{tilde(self.file)}: {what}. Whoever has it first is let in: keep it secret until it is used"
            )
        else:
            console.print(f"{what}. Whoever has it first is let in: keep it secret until it is used.")
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
        Path | None, typer.Option(metavar="FILE", help="Write the ticket to a new file that only you can read.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to call a swarm that this founds; else as this device.")
    ] = None,
) -> InviteResult:
    """Writes a ticket that lets one device in.

    Where this home belongs to no swarm, one is founded first; what was learned so far becomes the beginning of what is
    shared.
    """
    life_s = lifetime(expires)
    config = run.config()
    who = swarm.identity(run, make=True)
    if out is not None:
        _check_free(out)
    told = addresses_for(run, config, list(addr or []))
    founded, recovery = None, None
    if not swarm.places(run).is_member:
        founded, recovery = found(run, config, who, name or config.name[:MOST_NAME_CHARS])
    elif name is not None:
        raise UsageError("this home belongs to a swarm already, which has a name", "leave --name out")
    text = ticket(run, who, told, life_s)
    if out is not None:
        _write(out, text)
    return InviteResult(
        ticket=text,
        file=out,
        founded=founded,
        life=expires.strip(),
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
    if (found := seconds(text)) is None:
        raise UsageError(f"{text!r} is no time", "write it as 30m, 24h or 7d, a year at most")
    return found


def found(run: Run, config: Config, who: Identity, name: str) -> tuple[str, Path]:
    """Founds a swarm; its name, and where its recovery key is.

    Raises:
        UsageError: No swarm can have that name.
        HomeLockedError: Something is trained here.
        ModelError: The model cannot be found or read.
    """
    from p2p import moving
    from p2p.founding import new_genesis

    if not name.isprintable() or len(name) > MOST_NAME_CHARS:
        raise UsageError(
            f"{name!r} is no name for a swarm", f"choose one of at most {MOST_NAME_CHARS} printable characters: --name"
        )
    with run.home.training_lock("invite"):
        shape = sharing.shape(run, config)
        path = swarm.places(run).recovery
        genesis = new_genesis(
            name=name,
            fingerprint=bytes.fromhex(config.model_fingerprint),
            prompt_format=config.prompt_format,
            system_prompt=config.system_prompt or "",
            rank=shape.rank,
            alpha=shape.alpha,
            tensors=[(tensor.name, tensor.rows, tensor.columns) for tensor in shape.tensors],
            sealer=who.node_id,
            recovery=_recovery_key(path),
        )
        moving.found(swarm.places(run), who, genesis, config.name, sharing.luggage(run, config, shape))
    return genesis.name, path


def _recovery_key(path: Path) -> bytes:
    """The public half of the recovery key: a new one, or that of a founding which was interrupted."""
    from p2p.founding import new_recovery_key, read_recovery_key, write_recovery_key

    if not path.exists():
        scratch = path.with_name(f".{path.name}")
        scratch.unlink(missing_ok=True)
        _write(scratch, write_recovery_key(new_recovery_key()))
        os.replace(scratch, path)
    return read_recovery_key(path).public_key().public_bytes_raw()


def addresses_for(run: Run, config: Config, extra: list[str]) -> tuple[str, ...]:
    """The addresses to put into a ticket, those that a person named first.

    Raises:
        NetworkError: One is no address, or there is none.
    """
    from p2p import addresses, limits
    from p2p.errors import NetworkError

    named = tuple(str(addresses.parse(address)) for address in extra)
    if swarm.is_running(run):
        told = tuple(dict.fromkeys([*named, *swarm.ask(run, "status")["addresses"]]))[: limits.MAX_ADDRESSES]
    elif addresses.parse(config.listen, listen=True).port:
        told = addresses.advertised(config.listen, [*named, *config.advertise])
    else:
        told = named
    if not told:
        raise NetworkError(
            "there is no address to put into a ticket", f"name one: {run.spell('invite', '--addr', 'HOST:PORT')}"
        )
    return told


def ticket(run: Run, who: Identity, told: tuple[str, ...], life_s: int) -> str:
    """A ticket from the running node, or from the ledger where none runs."""
    if swarm.is_running(run):
        return str(swarm.ask(run, "invite", addresses=list(told), life_s=life_s)["ticket"])
    return _offline_ticket(run, who, told, life_s)


def _offline_ticket(run: Run, who: Identity, told: tuple[str, ...], life_s: int) -> str:
    from p2p import moving
    from p2p.founding import author_of_home, genesis_of
    from p2p.issuing import make_ticket
    from p2p.ledger import Ledger
    from p2p.member import Member

    moving.finish(swarm.places(run))
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


def _check_free(path: Path) -> None:
    """Refuses a file that cannot be made, before anything is done.

    Raises:
        UsageError: There is one of that name, or no folder for it.
    """
    if os.path.lexists(path):
        raise UsageError(f"{path} exists", "choose another file, or remove that one")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder", "make it, or choose another file")


def _write(path: Path, text: str) -> None:
    """Writes a secret for its owner alone.

    Raises:
        UsageError: There is a file of that name.
    """
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text if text.endswith("\n") else f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise UsageError(f"{path} exists", "choose another file, or remove that one") from error
