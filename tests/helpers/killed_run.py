"""Kill a training run again and again, and see that it always goes on from a whole checkpoint.

`python -m tests.helpers.killed_run CONFIG.yaml KILLS` prints what happened as JSON. Every member of
the run is forked from one process that has imported everything, so a start costs little. With
`second` behind it, a second run in the folder of a finished one is killed, and the first is read.
"""

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from ocrkit.config import TrainConfig
from ocrkit.data.load import load_data
from ocrkit.models.load import load_model
from ocrkit.models.read import predict
from ocrkit.run_folder import read_run, restore
from ocrkit.training.checkpoints import whole_checkpoints
from ocrkit.training.train import train


def start(config: TrainConfig) -> int:
    """Train in a child process; its id."""
    return in_child(lambda: train(*load_model(config), load_data(config), config))


def in_child(work) -> int:
    """Call a function in a child process without output; its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        work()
        code = 0
    finally:
        os._exit(code)


def wait_until(child: int, condition, seconds: float = 240) -> int | None:
    """Wait for the condition; the child's exit status if it ended before."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            raise TimeoutError(f"a child process is not where it should be after {seconds} s")
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    return None


def unsealed(folder: Path) -> dict[Path, int]:
    """Checkpoints that are not whole, and when something was last written to them."""
    return {
        path: path.stat().st_mtime_ns
        for path in folder.glob("checkpoint-*")
        if not (path / "complete.json").is_file()
    }


def kill_again_and_again(config: TrainConfig, kills: int, rng: random.Random) -> dict:
    """The kills, how many hit a save, and the steps they were resumed from."""
    folder, saving, steps, bad = Path(config.output_dir), 0, [], 0
    log = folder / "train_log.jsonl"
    for number in range(kills):
        size = log.stat().st_size if log.is_file() else 0
        before = unsealed(folder)
        child = start(config)
        if number % 2:
            ended = wait_until(child, lambda old=before: unsealed(folder).items() - old.items())
        else:
            ended = wait_until(child, lambda at=size: log.is_file() and log.stat().st_size != at)
        if ended is not None:
            raise RuntimeError(f"the run ended with {ended} before kill {number}")
        time.sleep(rng.uniform(0, 0.05) if number % 2 else rng.uniform(0, 0.6))
        saving += bool(unsealed(folder).items() - before.items())
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        whole = whole_checkpoints(folder)
        steps.append(int(whole[-1].name.rpartition("-")[2]) if whole else 0)
        for path in whole:
            state = json.loads((path / "trainer_state.json").read_text())
            bad += state["global_step"] != int(path.name.rpartition("-")[2])
            load_file(path / "adapter_model.safetensors")
            torch.load(path / "optimizer.pt", weights_only=True)
    return {"kills": kills, "while saving": saving, "resumed from": steps, "bad": bad}


def kill_second_runs(config: TrainConfig, kills: int, rng: random.Random) -> dict:
    """Kill a second run before, while and after it sets the first aside, and read the first."""
    folder = Path(config.output_dir)
    first, kept = read_run(folder)["id"], folder.with_name("kept")
    shutil.copytree(folder, kept)
    before = readings(config, kept)
    same = early = late = 0
    for number in range(kills):
        child = start(config)
        if number % 3 == 0:
            time.sleep(rng.uniform(0, 0.2))  # before it has loaded its model
        elif number % 3 == 1:
            # The folder is taken over in some milliseconds, during which the kill falls.
            wait_until(child, (folder / "replaced").is_dir)
            time.sleep(rng.uniform(0, 0.03))
        else:
            wait_until(child, lambda: taken_over(folder, first))
            time.sleep(rng.uniform(0, 1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        restore(folder)
        in_place = read_run(folder).get("id") == first
        early += in_place
        late += number % 3 == 2 and not in_place
        same += readings(config, folder if in_place else folder / "replaced" / first) == before
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
    return {
        "kills": kills,
        "reads as before": same,
        "before the first step": early,
        "after it was set aside": late,
    }


def taken_over(folder: Path, first: str) -> bool:
    """Whether a second run has set the run `first` aside and written its own run.json."""
    is_moving = (folder / "replaced" / "moving.json").exists()
    return not is_moving and read_run(folder).get("id", first) != first


def readings(config: TrainConfig, folder: Path) -> list[str]:
    """What the run in a folder reads, by its own settings.

    A child process reads: a data set that this process opened would leave it with threads, and a
    process that is forked from one with threads may wait for their locks forever.
    """
    file = folder.with_name("readings.json")

    def read():
        own = TrainConfig.from_recipe(str(folder / "config.yaml"), model_name_or_path=str(folder))
        model, processor = load_model(own)
        rows = load_data(config)["test"].select(range(2))
        file.write_text(json.dumps(predict(model, processor, rows, own)))

    status = wait_until(in_child(read), lambda: False)
    if status:
        raise RuntimeError(f"reading with the run in {folder} ended with {status}")
    return json.loads(file.read_text())


def main() -> None:
    """Run whole, run killed, and compare the adapters."""
    # tqdm's own lock is shared by forked processes, and a child that is killed while it holds the
    # lock would leave all others waiting.
    tqdm.set_lock(threading.RLock())
    config = TrainConfig.from_recipe(sys.argv[1], resume_from_checkpoint="auto")
    # What is imported here, late imports of a model's parts among it, no child imports again.
    load_model(config)
    import_module("ocrkit.training.trainer")
    if sys.argv[3:] == ["second"]:
        config.resume_from_checkpoint = None
        print(json.dumps(kill_second_runs(config, int(sys.argv[2]), random.Random(0))))
        return
    run = config.output_dir
    config.output_dir = f"{run}-whole"
    status = wait_until(start(config), lambda: False)
    config.output_dir = run
    result = kill_again_and_again(config, int(sys.argv[2]), random.Random(0))
    result["exit codes"] = [status, wait_until(start(config), lambda: False)]
    adapters = [
        load_file(f"{name}/adapter/adapter_model.safetensors") for name in (f"{run}-whole", run)
    ]
    result["same weights"] = all(torch.equal(adapters[0][n], adapters[1][n]) for n in adapters[0])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
