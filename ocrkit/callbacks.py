"""What watches a run: its log on disk, and the wish to stop it."""

import json
import signal
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback


class LogFile(TrainerCallback):
    """Appends every log to train_log.jsonl as it comes, so a stopped run keeps its curve."""

    def __init__(self, path: Path):
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop what an interrupted run logged after the checkpoint that is resumed from."""
        if not state.is_world_process_zero:
            return
        kept = [entry for entry in read_log(self.path) if entry["step"] <= state.global_step]
        text = "".join(json.dumps(entry) + "\n" for entry in kept if state.global_step)
        self.path.write_text(text, encoding="utf-8")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write one line."""
        if state.is_world_process_zero and logs:
            entry = {"step": state.global_step, **logs}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The entries of a train_log.jsonl; a line cut off by a crash is left out."""
    entries = []
    if Path(path).is_file():
        for line in Path(path).read_text(encoding="utf-8").splitlines():
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
    return entries


class StopOnSignal(TrainerCallback):
    """Turns Ctrl+C, a notebook's stop and SIGTERM into a checkpoint after the step at hand.

    An interrupt in the middle of a step would leave weights and optimizer apart. A second one
    stops at once. Use as a context around `trainer.train`: signals are as before outside it.
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None

    def __enter__(self) -> "StopOnSignal":
        """Take the signals, where Python allows it: in the main thread."""
        self.before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self._catch)
            except ValueError:
                break
        return self

    def __exit__(self, *error: Any) -> None:
        """Give the signals back."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: Any) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = signal.Signals(number)
        print(f"{self.caught.name}: saving a checkpoint after this step, then stopping.")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Save and stop, in all processes at the same step."""
        caught = self.caught is not None
        if args.world_size > 1:
            # A signal reaches the processes at different steps; one that waits for the others'
            # gradients while they save would wait forever.
            flag = torch.tensor(int(caught), device=args.device)
            torch.distributed.all_reduce(flag)
            caught = bool(flag)
        if caught:
            self.caught = self.caught or signal.SIGTERM
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
        return control
