"""Where the text of a ticket comes from: the command line, a file, or standard input."""

from __future__ import annotations

import io
import traceback
from pathlib import Path

import pytest

from p2p.errors import TicketError
from p2p.tickets import Endpoint, Ticket, read, read_source, write

TICKET = Ticket(
    genesis=bytes(range(32)),
    name="home",
    issuer=b"i" * 32,
    endpoints=(Endpoint("192.168.1.20:4242", b"t" * 32),),
    expires_s=1_800_000_000,
    seal=b"",
    seal_height=0,
    secret=bytes(range(100, 132)),
)
TEXT = write(TICKET)


def refusal(argument: str, stdin: str = "") -> TicketError:
    with pytest.raises(TicketError) as caught:
        read_source(argument, io.StringIO(stdin))
    return caught.value


def test_a_ticket_itself_a_file_or_standard_input(tmp_path: Path) -> None:
    (tmp_path / "ticket.txt").write_text(f"\n{TEXT}\n")
    for argument in (TEXT, TEXT.upper(), f" '{TEXT}'\n", str(tmp_path / "ticket.txt")):
        assert read(read_source(argument, io.StringIO())) == TICKET
    assert read(read_source("-", io.StringIO(TEXT + "\n"))) == TICKET


def test_a_file_named_like_a_ticket_is_named_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("spear1-home.txt").write_text(TEXT)
    with pytest.raises(TicketError) as caught:
        read(read_source("spear1-home.txt", io.StringIO()))
    assert "./spear1" in str(caught.value.hint)
    assert read(read_source("./spear1-home.txt", io.StringIO())) == TICKET


@pytest.mark.parametrize("cut", [1, 3, 5, 100])
def test_a_ticket_that_lost_its_beginning_is_not_shown(cut: int) -> None:
    error = refusal(TEXT[cut:])
    shown = "".join(traceback.format_exception(error))
    assert "neither a ticket" in error.message
    assert TEXT[cut : cut + 20] not in shown
    assert TEXT[-20:] not in shown


@pytest.mark.parametrize("argument", ["/nonexistent/ticket", "nul\0byte", "x" * 5000])
def test_a_file_that_is_not_there_is_refused(argument: str) -> None:
    assert "nor a file that exists" in refusal(argument).message


def test_a_folder_is_no_ticket(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(str(tmp_path)).message


@pytest.mark.parametrize("argument", ["", "  ", "\n"])
def test_nothing_is_no_file(argument: str) -> None:
    with pytest.raises(TicketError, match="empty"):
        read(read_source(argument, io.StringIO()))


def test_what_is_too_large_or_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\xff\xfe\x00s\x00p")
    assert "not text" in refusal(str(path)).message
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # sparse: reading it whole would not end well
    assert "too large" in refusal(str(path)).message
    assert "standard input: too large" in refusal("-", "a" * (1 << 20)).message


def test_a_newer_ticket_is_taken_for_one() -> None:
    assert read_source("spear2aeaq", io.StringIO()) == "spear2aeaq"
    with pytest.raises(TicketError, match="newer"):
        read("spear2aeaq")
