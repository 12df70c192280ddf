"""When training states are written, and which are kept.

| flags                                    | written                      | kept                                     |
|------------------------------------------|------------------------------|------------------------------------------|
| `--save_state`                           | with every checkpoint        | all, or by `--save_last_n_*_state`       |
| `--save_state_every_n_steps N`           | every N updates              | the last two                             |
| `--resume auto` and neither of the above | at the end of every epoch    | the last two, none once an expert is done |
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from musubi_ext.errors import UserError
from musubi_ext.hosts.launched import is_main
from musubi_ext.hosts.states import Position, Snapshot, State, States, check_settings, read_state

AUTO = "auto"
KEPT = 2  # the newest, and the one before in case it is damaged


class StatePolicy:
    """The rules above for one phase. `say` takes a sentence for the user."""

    def __init__(self, args: Namespace, settings: Mapping[str, Any], say: Any = None) -> None:
        self.args, self.states, self._say = args, States(Path(args.output_dir), args.output_name, settings), say
        self.every = args.save_state_every_n_steps
        self.by_epoch = args.resume == AUTO and not self.every and not args.save_state

    def start(self) -> State | None:
        """The state to go on from: none, the one `--resume` names, or with `auto` the newest whole one.

        Raises UserError when it belongs to other settings, or when the folder named is no state.
        """
        if is_main():
            self.states.sweep()
        if not self.args.resume:
            return None
        if self.args.resume != AUTO:
            return self._named(Path(self.args.resume))
        state, skipped = self.states.newest()
        for sentence in skipped:
            self._tell(f"skipped: {sentence}")
        if state is not None:
            self._tell(f"going on from {state.path.name}: {state.position.step} updates are done")
        return state

    def due_by_step(self, step: int, saved: bool) -> bool:
        """Whether a state is due after this update; `saved`: a checkpoint was just written."""
        return (saved and bool(self.args.save_state)) or bool(self.every and step % self.every == 0)

    def due_by_epoch(self, epoch: int, saved: bool, *, last: bool) -> bool:
        """Whether a state is due after this epoch; `last`: training is over."""
        if last:
            return bool(self.args.save_state or self.args.save_state_on_train_end)
        return self.by_epoch or (saved and bool(self.args.save_state))

    def write(self, label: str, snapshot: Snapshot, accelerator: Any) -> None:
        """Write a state, and when it was read back whole remove those that are no longer wanted."""
        path = self.states.write(label, snapshot, accelerator)
        if accelerator.is_main_process:
            self._prune(path, snapshot.position)
        accelerator.wait_for_everyone()

    def finished(self) -> None:
        """The adapter is written: states that only served this run go."""
        if not (self.args.save_state or self.args.save_state_on_train_end):
            self.states.clear()

    def _prune(self, path: Path, position: Position) -> None:
        args = self.args
        if not args.save_state:
            return self.states.prune(KEPT, path)
        last_steps = args.save_last_n_steps_state or args.save_last_n_steps
        last_epochs = args.save_last_n_epochs_state or args.save_last_n_epochs
        if args.save_every_n_steps and last_steps is not None:
            read_state(path)
            self.states.remove_before(position.step - last_steps)
        elif args.save_every_n_epochs and last_epochs is not None:
            self.states.prune(last_epochs, path)

    def _named(self, path: Path) -> State:
        if not path.is_dir():
            raise UserError(f"--resume {path}: expected a training state's folder or the word auto, found neither")
        if not (path / "state.json").is_file():
            raise UserError(
                f"--resume {path}: not a state of musubi-ext (musubi-tuner's own states know neither their epoch nor "
                "their step: start from the adapter instead, with --network_weights)"
            )
        state = read_state(path)
        check_settings(state, self.states.settings)
        return state

    def _tell(self, sentence: str) -> None:
        if self._say is not None:
            self._say(sentence)
