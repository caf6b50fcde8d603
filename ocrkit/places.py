"""Where a notebook runs and where its data lies: Colab, Kaggle, Drive, archives, samples."""

import os
import shutil
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

from data_prep.dataset.command import expand_home
from data_prep.dataset.files import writing
from data_prep.dataset.manifest import check_own, content_hash, note_files
from ocrkit.environment import where

SAMPLES = Path(__file__).parent / "assets" / "samples"
DRIVE = "/content/drive"


def mount_drive(*paths: str | Path) -> bool:
    """Mount Google Drive on Colab where one of `paths` lies on it; tells whether it did."""
    if where() != "colab" or not any(str(path).startswith(DRIVE) for path in paths):
        return False
    from google.colab import drive

    drive.mount(DRIVE)
    return True


def off_drive(folder: str | Path) -> str:
    """A folder for many small files: as given, or its like under ./data where it lies on Drive.

    Every file on Drive is a request of its own, so thousands of them take hours.
    """
    on_drive = Path(folder).is_relative_to(DRIVE)
    return str("data" / Path(folder).relative_to(DRIVE) if on_drive else folder)


def sample(domain: str) -> Path:
    """The dataset folder of a small sample that ships with the kit.

    Raises:
        ValueError: there is no sample of that name.
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
    **options: str,
) -> str:
    """The dataset folder to train on, brought to the local disk where that takes something.

    Converting takes a process a core, so a script that asks for it needs the usual
    `if __name__ == "__main__"`.

    Args:
        dataset: a dataset folder; a tar as `data_prep.pack` makes it, which is unpacked; or
            nothing, for the shipped sample or for what `raw_data` becomes.
        domain: the sample to take where nothing else is given.
        raw_data: a file or folder in a data set's own format, which is converted.
        source: that format, one of `python -m data_prep.convert --list`.
        local: the folder to unpack and convert into. What is done there already is kept; what was
            converted before `raw_data` changed is put aside as `<folder>.old` and converted anew.
        options: of `data_prep.convert`, such as `task`; an empty one is not given.

    Raises:
        ValueError: the data cannot be used as asked; the message says why.
    """
    dataset, raw_data, local = map(expand_home, (dataset, raw_data, local))
    if raw_data:
        from data_prep.convert import convert

        out = Path(local) / (source or "unknown")
        given = {name: value for name, value in options.items() if value}
        state = ""
        if (made := out / "dataset.json").is_file():
            state = f"; {out} was there already, delete it to convert anew"
            if _changed_since(made.stat().st_mtime, raw_data, *given.values()):
                old = out.with_name(f"{out.name}.old")
                shutil.rmtree(old, ignore_errors=True)
                out.rename(old)
                state = f"; converted anew, as {old} is older than its source"
        rows = convert(source, raw_data, out, workers=os.cpu_count() or 1, **given)["rows"]
        counts = ", ".join(f"{split} {count:,}" for split, count in rows.items())
        print(f"{raw_data} as {source}: {counts} rows{state}")
        return str(out)
    if dataset.endswith(".tar"):
        from data_prep.pack import unpack

        return str(unpack(dataset, Path(local) / Path(dataset).stem))
    return dataset or str(sample(domain))


def _changed_since(time: float, *paths: str) -> bool:
    """Whether any of these is a file that was changed since, or a folder that holds one.

    A file that was added or taken away changes its folder. Options that are no path tell nothing.
    """
    files = chain.from_iterable((Path(path), *Path(path).rglob("*")) for path in paths)
    return any(file.stat().st_mtime > time for file in files if file.exists())


def download(output_dir: str | Path, *folders: str | Path, overwrite: bool = False) -> Any:
    """Zip folders of a run into `<output_dir>/results.zip` and offer it: returns a link to it.

    On Colab the browser downloads it at once; on Kaggle it lies among the notebook's output.

    Args:
        output_dir: the run folder.
        folders: what to take along, such as its report and its adapter.
        overwrite: replace a results.zip that is not of such a download, too.

    Raises:
        FileExistsError: there is such a results.zip.
        OSError: the disk is full or cannot be written; an older results.zip is as it was.
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
    if where() == "colab":
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
