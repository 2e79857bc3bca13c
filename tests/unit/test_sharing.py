"""What a home uses as a member, what it takes along, and what it hands over, without a node or a model."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2p import moving
from p2p.errors import LedgerError
from p2p.founding import author_of_home, genesis_of, new_genesis, new_recovery_key
from p2p.grid import from_fine
from p2p.identity import generate, save
from p2p.increments import read_increment, waiting
from p2p.ledger import Ledger
from p2p.outbox import Outbox
from p2p.records import Genesis
from spearctl import shapes, sharing, swarm
from spearctl.config import AdapterConfig, Config
from spearctl.home import Home
from spearctl.options import GlobalOptions
from spearctl.run import Run
from tests.cli import make_config
from tests.disk import full
from training.adapters import Adapter, AdapterShape, adapter_digest, initial_adapter, tensor_shapes
from training.history import History
from training.store import AdapterStore

FINGERPRINT = "ab" * 32
SHAPE = AdapterShape(2, 4, tensor_shapes([("up.lora_A", (2, 3)), ("up.lora_B", (5, 2)), ("down.lora_A", (2, 4))]))
PARAMETERS = 24
STEP = 2.0**-20


class Lab:
    """A home with versions that nobody had to train."""

    def __init__(self, root: Path) -> None:
        self.config: Config = make_config(
            model_fingerprint=FINGERPRINT, adapter=AdapterConfig(rank=2, alpha=4, shape=SHAPE.digest().hex())
        )
        self.run = Run("train", GlobalOptions(home=root, quiet=True))
        home = Home(root)
        home.prepare()
        home.config_path.write_text("format = 1\n")
        save(root, generate())
        self.history = History(home.history_path)
        self.store: AdapterStore = sharing.open_store(self.run, self.config, self.history, SHAPE)
        self.places = swarm.places(self.run)

    def version(self, *, wins: int = 3, parent: str | None = None, step: float = STEP) -> None:
        """A new version, the current one, some steps from the version that it was trained from."""
        number, parent = self.history.next_version(), parent or self.history.current
        before = shapes.flat(self.store.load(parent))
        after = before + np.float32(number * step) * np.arange(PARAMETERS, dtype=np.float32)
        made = self.store.write(shapes.shaped(after, SHAPE), parent=parent, wins=wins)
        self.history.commit(number=self.history.next_round(), seconds=1.0, report={}, version=made)

    def found(self) -> Genesis:
        identity = swarm.identity(self.run)
        genesis = genesis_for(SHAPE, sealer=identity.node_id)
        moving.found(self.places, identity, genesis, "lab", sharing.luggage(self.run, self.config, SHAPE))
        return genesis

    def take(self) -> None:
        """What a node does with what waits for it, without signing anything."""
        with Ledger(self.places.swarm) as ledger:
            genesis = genesis_of(ledger)
            outbox = Outbox(genesis, ledger)
            for path in waiting(self.places.outbox):
                found = read_increment(path, genesis.parameters)
                outbox.add(found.id, found.values, found.wins, found.base)
                ledger.commit()
                path.unlink()

    def hand_over(self, *, keep: bool = False) -> int:
        return sharing.hand_over(self.run, self.store, self.history, keep=keep)

    def pending(self) -> tuple[int, np.ndarray]:
        with swarm.view(self.run) as view:
            return view.outbox.pending.wins, view.learned()

    def shared(self) -> Adapter:
        found = sharing.shared(self.run, self.config)
        assert found is not None
        return found.adapter


def genesis_for(shape: AdapterShape, fingerprint: str = FINGERPRINT, sealer: bytes | None = None) -> Genesis:
    return new_genesis(
        name="lab's",
        fingerprint=bytes.fromhex(fingerprint),
        prompt_format="raw",
        system_prompt="",
        rank=shape.rank,
        alpha=shape.alpha,
        tensors=[(tensor.name, tensor.rows, tensor.columns) for tensor in shape.tensors],
        sealer=sealer or generate().node_id,
        recovery=new_recovery_key().public_key().public_bytes_raw(),
    )


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "home")
    yield made
    made.history.close()


# Shapes.


def test_flat_and_shaped_are_opposites() -> None:
    adapter = initial_adapter(FINGERPRINT, SHAPE)
    again = shapes.shaped(shapes.flat(adapter), SHAPE)
    assert adapter_digest(again) == adapter_digest(adapter)
    assert list(again) == sorted(again)


def test_a_swarm_fits_a_home_of_the_same_model_and_adapter_alone(lab: Lab) -> None:
    assert shapes.fits(genesis_for(SHAPE), lab.config)
    assert not shapes.fits(genesis_for(SHAPE, "cd" * 32), lab.config)
    tensors = SHAPE.tensors
    others = [
        AdapterShape(2, 8, tensors),
        AdapterShape(4, 4, tensors),
        AdapterShape(2, 4, tensors[1:]),
        AdapterShape(2, 4, (dataclasses.replace(tensors[0], name="left.lora_A"), *tensors[1:])),
        AdapterShape(2, 4, (dataclasses.replace(tensors[0], rows=4), *tensors[1:])),
    ]
    assert [shapes.fits(genesis_for(other), lab.config) for other in others] == [False] * len(others)


def test_a_home_outside_of_any_swarm_shares_nothing(lab: Lab) -> None:
    assert sharing.shared(lab.run, lab.config) is None
    assert not sharing.takes_part(lab.run, lab.config)
    lab.version()
    sharing.catch_up(lab.run, lab.config)
    assert not lab.places.outbox.exists()


def test_a_member_of_a_swarm_of_another_model_uses_its_own_and_hands_over_nothing(lab: Lab) -> None:
    genesis = genesis_for(AdapterShape(2, 8, SHAPE.tensors))
    moving.found(lab.places, swarm.identity(lab.run), genesis, "lab", None)
    assert sharing.shared(lab.run, lab.config) is None
    assert not sharing.takes_part(lab.run, lab.config)
    lab.version()
    sharing.catch_up(lab.run, lab.config)
    assert not lab.places.outbox.exists()


# Luggage.


def test_what_was_learned_goes_along_whole_with_its_wins(lab: Lab) -> None:
    lab.version(wins=3)
    lab.version(wins=4)
    expected = lab.store.load("local:2")
    lab.found()
    assert lab.pending()[0] == 7
    assert adapter_digest(lab.shared()) == adapter_digest(expected)


def test_what_the_version_in_use_was_not_trained_from_stays(lab: Lab) -> None:
    lab.version(wins=100)
    lab.version(wins=4, parent="base")
    lab.found()
    assert lab.pending()[0] == 4
    assert adapter_digest(lab.shared()) == adapter_digest(lab.store.load("local:2"))


def test_who_uses_the_base_model_takes_nothing_along(lab: Lab) -> None:
    lab.version()
    lab.history.use("base")
    lab.found()
    wins, values = lab.pending()
    assert (wins, np.abs(values).max()) == (0, 0)


def test_what_went_along_is_never_handed_over_too(lab: Lab) -> None:
    lab.version()
    lab.found()
    assert lab.hand_over() == 0
    assert waiting(lab.places.outbox) == ()


# Handing over.


def test_every_version_is_handed_over_once_as_the_difference_to_its_parent(lab: Lab) -> None:
    lab.found()
    lab.version(wins=3)
    lab.version(wins=4)
    assert lab.hand_over() == 7
    assert sharing.waiting_wins(lab.run) == 7
    assert lab.hand_over() == 0
    found = [read_increment(path, PARAMETERS) for path in waiting(lab.places.outbox)]
    assert {increment.id for increment in found} == {version.sha256 for version in lab.history.versions()}
    for number, increment in enumerate(sorted(found, key=lambda increment: increment.wins), start=1):
        expected = number * STEP * np.arange(PARAMETERS)
        assert np.abs(increment.values - expected).max() < STEP / 1000


def test_what_waits_what_is_kept_and_what_was_taken_is_used_once(lab: Lab) -> None:
    lab.found()
    lab.version()
    lab.hand_over()
    expected = adapter_digest(lab.store.load("local:1"))
    assert adapter_digest(lab.shared()) == expected
    files = {path: path.read_bytes() for path in waiting(lab.places.outbox)}
    lab.take()
    assert adapter_digest(lab.shared()) == expected
    for path, raw in files.items():  # as if the node had been killed before it removed the file
        path.write_bytes(raw)
    assert adapter_digest(lab.shared()) == expected
    lab.take()
    lab.hand_over(keep=True)
    lab.version()
    lab.hand_over(keep=True)
    assert waiting(lab.places.outbox) == ()
    assert len(sharing.kept(lab.run)) == 1
    expected = adapter_digest(lab.store.load("local:2"))
    assert adapter_digest(lab.shared()) == expected
    assert sharing.share_kept(lab.run) == 1
    assert (len(waiting(lab.places.outbox)), sharing.kept(lab.run)) == (1, ())
    assert adapter_digest(lab.shared()) == expected


def test_what_the_node_takes_while_it_is_being_read_counts_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.found()
    lab.version()
    lab.hand_over()
    expected = adapter_digest(lab.store.load("local:1"))
    read, reads = swarm._read, []

    def taking(*arguments: Any) -> Any:
        found = read(*arguments)
        if not reads:
            lab.take()
        reads.append(found)
        return found

    monkeypatch.setattr(swarm, "_read", taking)
    assert adapter_digest(lab.shared()) == expected
    assert [len(found.taken) for found in reads] == [0, 1]


def test_a_blob_that_goes_while_it_is_being_read_is_looked_for_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.version()
    lab.found()
    monkeypatch.setattr(swarm, "VIEW_PAUSE_S", 0.0)
    tries = iter([LedgerError("blob: removed"), LedgerError("blob: removed"), None])
    read = swarm._read

    def missing(*arguments: Any) -> Any:
        error = next(tries)
        if error is not None:
            raise error
        return read(*arguments)

    monkeypatch.setattr(swarm, "_read", missing)
    assert lab.pending()[0] == 3
    monkeypatch.setattr(swarm, "_read", lambda *arguments: (_ for _ in ()).throw(LedgerError("blob: damaged")))
    with pytest.raises(LedgerError, match="damaged"):
        lab.pending()


def test_what_a_dead_run_left_is_dealt_with_as_that_run_meant_to(lab: Lab) -> None:
    lab.found()
    lab.hand_over(keep=True)  # a run with --no-share begins,
    lab.version()  # and dies here
    sharing.catch_up(lab.run, lab.config)
    assert (len(sharing.kept(lab.run)), sharing.waiting_wins(lab.run)) == (1, 0)
    lab.version()
    lab.hand_over(keep=False)  # the next one begins: the last version was still the other's
    assert (len(sharing.kept(lab.run)), sharing.waiting_wins(lab.run)) == (2, 0)
    lab.version()
    lab.hand_over(keep=False)
    assert (len(sharing.kept(lab.run)), sharing.waiting_wins(lab.run)) == (2, 3)


def test_catching_up_leaves_a_run_that_goes_on_alone(lab: Lab) -> None:
    lab.found()
    lab.version()
    with lab.run.home.training_lock("train"):
        sharing.catch_up(lab.run, lab.config)
    assert sharing.waiting_wins(lab.run) == 0
    sharing.catch_up(lab.run, lab.config)
    assert sharing.waiting_wins(lab.run) == 3


def test_a_full_disk_leaves_nothing_behind_and_is_told_with_its_place(lab: Lab) -> None:
    lab.found()
    before = sorted(lab.places.outbox.iterdir())
    with full(0), pytest.raises(OSError, match=os.strerror(errno.EFBIG)) as caught:
        sharing.hand_over(lab.run, lab.store, lab.history, keep=True)
    assert caught.value.filename == str(lab.places.outbox / ".handed-over")
    assert sorted(lab.places.outbox.iterdir()) == before
    lab.version(wins=7)
    assert sharing.hand_over(lab.run, lab.store, lab.history, keep=True) == 7


def test_a_damaged_version_keeps_no_other_back(lab: Lab) -> None:
    lab.found()
    lab.version(wins=1)
    path = lab.store.path("local:1") / "adapter_model.safetensors"
    lab.version(wins=10, parent="base")
    path.write_bytes(path.read_bytes()[:-1])
    assert lab.hand_over() == 10
    assert lab.hand_over() == 0


# What the swarm knows, as a version.


def test_what_the_swarm_knows_becomes_a_version_that_is_never_handed_over(lab: Lab) -> None:
    lab.version()
    lab.found()
    found = sharing.shared(lab.run, lab.config)
    assert found is not None
    sharing.take_over(lab.store, lab.history, found)
    assert lab.history.current == "local:1"  # the same already
    lab.history.use("base")
    sharing.take_over(lab.store, lab.history, found)
    assert lab.history.current == "local:2"
    assert lab.history.version("local:2").parent == "round:0"
    assert lab.hand_over() == 0
    lab.version(wins=5)
    assert lab.hand_over() == 5


def test_an_increment_names_the_round_of_the_state_that_it_was_learned_on(lab: Lab) -> None:
    lab.found()
    found = sharing.shared(lab.run, lab.config)
    assert found is not None
    taken = dataclasses.replace(found, head_round=7, adapter=initial_adapter("cd" * 32, SHAPE))
    sharing.take_over(lab.store, lab.history, taken)
    lab.version()
    lab.version()
    lab.hand_over()
    assert [read_increment(path, PARAMETERS).base for path in waiting(lab.places.outbox)] == [7, 7]


def test_what_a_delta_had_no_room_for_is_left_out_until_more_is_learned(lab: Lab) -> None:
    lab.version(step=1.3 * STEP)
    genesis = lab.found()
    with Ledger(lab.places.swarm) as ledger:
        author = author_of_home(ledger, swarm.identity(lab.run))
        Outbox(genesis, ledger).sign(author, 1, (), bytes(32), null=False)
        ledger.commit()
    with swarm.view(lab.run) as view:
        assert (view.outbox.pending.wins, view.outbox.pending.values.any()) == (0, True)
        assert view.learned().tobytes() == from_fine(view.state.vector, genesis).tobytes()
        assert view.learned().any()
    lab.hand_over()
    lab.version(step=1.3 * STEP)
    lab.hand_over()
    lab.take()
    with swarm.view(lab.run) as view:
        everything = view.state.vector + view.outbox.pending.values
        assert view.learned().tobytes() == from_fine(everything, genesis).tobytes()
