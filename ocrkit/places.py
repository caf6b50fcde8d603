"""Data and results in notebooks: Google Drive, archives, raw data, shipped samples, downloads."""

import os
import shutil
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

from data_prep.dataset.command import expand_home
from data_prep.dataset.files import writing
from data_prep.dataset.manifest import check_own, content_hash, note_files
from ocrkit.environment import notebook_host

SAMPLES = Path(__file__).parent / "assets" / "samples"
DRIVE = "/content/drive"


def mount_drive(*paths: str | Path) -> bool:
    """Mount Google Drive on Colab if one of `paths` lies on it; return whether it was mounted.

    `drive/MyDrive/...` counts too, as Colab's working folder is that of the mount.

    Raises:
        OSError: Drive could not be mounted.
    """
    if notebook_host() != "colab" or not any(path and _on_drive(path) for path in paths):
        return False
    from google.colab import drive

    try:
        drive.mount(DRIVE)
    except Exception as error:  # Colab raises several kinds, ValueError among them
        raise OSError(
            f"Google Drive could not be mounted ({' '.join(str(error).split())}): run the cell "
            "again and allow the access, or give paths on Colab's own disk."
        ) from None
    return True


def _on_drive(path: str | Path) -> bool:
    return Path.cwd().joinpath(expand_home(path)).is_relative_to(DRIVE)


def off_drive(folder: str | Path) -> str:
    """Return a folder for many small files: `folder`, or one under ./data if it lies on Drive.

    Drive takes a request for every file, so thousands of files take hours.
    """
    if not _on_drive(folder):
        return str(folder)
    return str("data" / Path.cwd().joinpath(folder).relative_to(DRIVE))


def sample(domain: str) -> Path:
    """Return the dataset folder of a small sample that ships with the kit.

    Raises:
        ValueError: no sample has that name.
    """
    names = sorted(path.name for path in SAMPLES.iterdir() if path.is_dir())
    if domain not in names:
        raise ValueError(f"There is no sample {domain!r}; there are {', '.join(names)}.")
    return SAMPLES / domain


def local_dataset(
    dataset: str,
    domain: str = "",
    raw_data: str = "",
    source: str = "",
    local: str | Path = "data",
    **options: Any,
) -> str:
    """Return the dataset folder to train on, unpacked or converted to the local disk if needed.

    Converting starts a process a core, so a script that converts needs the usual
    `if __name__ == "__main__"`.

    Args:
        dataset: a dataset folder; a tar as `data_prep.pack` makes it, which is unpacked; or
            nothing, for the shipped sample or for what `raw_data` becomes.
        domain: the sample to take without `dataset` and `raw_data`.
        raw_data: a file or folder in a data set's own format, which is converted.
        source: that format, one of `python -m data_prep.convert --list`.
        local: the folder to unpack and convert into. A finished dataset there is kept, but one
            older than `raw_data` is moved to `<folder>.old` and converted anew.
        options: of `data_prep.convert`, such as `task`; empty ones are left out.

    Raises:
        ValueError: the data cannot be converted or unpacked; the message says why.
    """
    dataset, raw_data, local = map(expand_home, (dataset, raw_data, local))
    if raw_data:
        from data_prep.convert import convert

        out = Path(local) / (source or "unknown")
        options = {name: value for name, value in options.items() if value}
        state = ""
        if (description := out / "dataset.json").is_file():
            state = f"; {out} was there already, delete it to convert anew"
            if _changed_since(description.stat().st_mtime, raw_data, *options.values()):
                old = out.with_name(f"{out.name}.old")
                shutil.rmtree(old, ignore_errors=True)
                out.rename(old)
                state = f"; converted anew, as {old} is older than its source"
        rows = convert(source, raw_data, out, workers=os.cpu_count() or 1, **options)["rows"]
        counts = ", ".join(f"{split} {count:,}" for split, count in rows.items())
        print(f"{raw_data} as {source}: {counts} rows{state}")
        return str(out)
    if dataset.endswith(".tar"):
        from data_prep.pack import unpack

        return str(unpack(dataset, Path(local) / Path(dataset).stem))
    return dataset or str(sample(domain))


def _changed_since(time: float, *paths: str) -> bool:
    """Whether a file, or a file in a folder, was changed since `time`.

    Adding or removing a file changes its folder. Paths that do not exist count as unchanged.
    """
    files = chain.from_iterable((Path(path), *Path(path).rglob("*")) for path in paths)
    return any(file.stat().st_mtime > time for file in files if file.exists())


def download(output_dir: str | Path, *folders: str | Path, overwrite: bool = False) -> Any:
    """Zip folders of a run to `<output_dir>/results.zip` and return a link to it.

    On Colab the browser downloads it at once; on Kaggle it is part of the notebook's output.

    Args:
        output_dir: the run folder.
        folders: to put into the archive, such as the run's report and adapter.
        overwrite: also replace a results.zip that this function did not write.

    Raises:
        FileExistsError: a results.zip of another origin exists.
        OSError: the disk is full or cannot be written; an older results.zip stays.
    """
    from IPython.display import FileLink

    path = Path(output_dir) / "results.zip"
    check_own(output_dir, [path.name], overwrite or _zipped_before(path, folders))
    with writing(path) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for folder in map(Path, folders):
                for name in sorted(p for p in folder.rglob("*") if p.is_file()):
                    archive.write(name, Path(folder.name) / name.relative_to(folder))
        file.flush()
        line = {"file": path.name, "sha256": content_hash(Path(file.name))}
        note_files(output_dir, [line])
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if notebook_host() == "colab":
        from google.colab import files

        files.download(str(path))
    return FileLink(path)


def _zipped_before(path: Path, folders: tuple[str | Path, ...]) -> bool:
    """Whether version 0.1.0, which kept no manifest, zipped these folders and nothing else."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[0] for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return False
    return bool(names) and names <= {Path(folder).name for folder in folders}
