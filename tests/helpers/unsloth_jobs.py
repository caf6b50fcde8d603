"""Jobs of the real Unsloth on a CPU: what they are to do, and the process that does them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ocrkit.config import TrainConfig

ROOT = Path(__file__).parents[2]


def unsloth_job(folder: Path, config: TrainConfig, **changes: object) -> dict:
    """Description of a job for `unsloth_on_cpu.py` that leaves its files in `folder`."""
    settings = {
        **config.to_dict(),
        "backend": "unsloth",
        # Exact enough to compare losses, also where a CPU would multiply in bfloat16.
        "dtype": "float32",
        "device_map": "cpu",
        "output_dir": str(folder / "run"),
        **changes,
    }
    names = ("start", "merged", "merged_4bit", "result", "cache")
    job = {name: str(folder / name) for name in names}
    return job | {"config": settings, "samples": 20}


def run_unsloth(folder: Path, *jobs: dict, gpu: bool = False, **environment: str) -> list[dict]:
    """Results of the jobs, run one by one in a separate process that sees a GPU if `gpu`."""
    paths = [folder / f"job-{number}.json" for number in range(len(jobs))]
    for path, job in zip(paths, jobs):
        path.write_text(json.dumps(job))
    hidden = {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    environment = os.environ | hidden | environment
    if gpu:
        environment["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"] or "0"
    script = Path(__file__).with_name("unsloth_on_cpu.py")
    process = subprocess.run(
        [sys.executable, str(script), *map(str, paths)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    results = [json.loads(Path(job["result"]).read_text()) for job in jobs]
    return [result | {"output": process.stdout + process.stderr} for result in results]
