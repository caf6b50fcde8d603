"""Packs a dataset into one tar (or a few) for a network drive, and unpacks it on a local disk.

Reading 100,000 small files through Drive takes hours, one large file minutes:
    python -m data_prep.pack data/signs drive/signs.tar
    python -m data_prep.unpack drive/signs.tar data/signs
Beside the tar lies `<tar>.json` with sizes and SHA-256 sums, which unpacking checks.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from .command import exit_code
from .schema import DataError, UsageError

CHUNK = 2**20


def pack(dataset: str | Path, archive: str | Path, shard_bytes: int | None = None) -> list[Path]:
    """Pack a dataset folder; returns the tar files written.

    The same folder gives the same bytes. With `shard_bytes` a new tar is begun once one has that
    much content: `signs.tar` becomes `signs-00000.tar` and so on. DataError if `dataset` is none.
    """
    dataset, archive = Path(dataset), Path(archive)
    if not (dataset / "dataset.json").is_file():
        raise DataError(f"{dataset} holds no dataset.json; name a folder that convert made.")
    if archive.suffix != ".tar":
        raise UsageError(f"{archive} must end in .tar.")
    archive.parent.mkdir(parents=True, exist_ok=True)
    shards = []
    for index, names in enumerate(_divide(dataset, shard_bytes)):
        name = f"{archive.stem}-{index:05d}.tar" if shard_bytes else archive.name
        shards.append(_write_tar(dataset, names, archive.with_name(name)))
    manifest = json.dumps({"shards": shards}, indent=1) + "\n"
    partial = archive.with_name(f".{archive.name}.json.partial")
    partial.write_text(manifest, encoding="utf-8")
    partial.replace(_manifest_of(archive))
    return [archive.with_name(shard["name"]) for shard in shards]


def unpack(archive: str | Path, out: str | Path) -> Path:
    """Unpack what `pack` wrote; returns the dataset folder.

    A folder that is already there in full is left alone; what an interrupted run unpacked is not
    read again. DataError where a tar is missing, damaged, or holds what it must not.
    """
    archive, out = Path(archive), Path(out)
    try:
        manifest = json.loads(_manifest_of(archive).read_text(encoding="utf-8"))
        shards = [(str(s["name"]), int(s["bytes"]), str(s["sha256"])) for s in manifest["shards"]]
    except FileNotFoundError:
        raise DataError(f"{_manifest_of(archive)} is missing; copy it beside the tar.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{_manifest_of(archive)} is damaged ({error}); pack again.") from None
    done = out / ".unpacked.json"
    if done.is_file() and json.loads(done.read_text(encoding="utf-8")) == manifest:
        return out
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} already holds something else; choose another folder.")
    staging = out.parent / f".{out.name}.unpacking"
    staging.mkdir(parents=True, exist_ok=True)
    for name, size, sha256 in shards:
        finished = staging / f".{name}.{sha256[:16]}.done"
        if not finished.exists():
            _read_tar(archive.with_name(Path(name).name), size, sha256, staging)
            finished.touch()
    for finished in staging.glob(".*.done"):
        finished.unlink()
    (staging / done.name).write_text(json.dumps(manifest), encoding="utf-8")
    if out.exists():
        out.rmdir()
    staging.rename(out)
    return out


def _manifest_of(archive: Path) -> Path:
    return archive.with_name(archive.name + ".json")


def _divide(dataset: Path, shard_bytes: int | None) -> Iterator[list[str]]:
    """The dataset's files in a fixed order, in parts of about so many bytes."""
    names: list[str] = []
    size = 0
    files = sorted(path for path in dataset.rglob("*") if path.is_file())
    for path in files:
        name = path.relative_to(dataset).as_posix()
        if name.startswith("."):
            continue
        names.append(name)
        size += path.stat().st_size
        if shard_bytes and size >= shard_bytes:
            yield names
            names, size = [], 0
    if names:
        yield names


class _Counted:
    """A file that counts and sums what is read from it or written to it."""

    def __init__(self, file) -> None:
        self.file, self.size, self.sum = file, 0, hashlib.sha256()

    def _note(self, data: bytes) -> bytes:
        self.size += len(data)
        self.sum.update(data)
        return data

    def write(self, data: bytes) -> int:
        """Write through."""
        return self.file.write(self._note(bytes(data)))

    def read(self, count: int = -1) -> bytes:
        """Read through."""
        return self._note(self.file.read(count))


def _write_tar(dataset: Path, names: list[str], path: Path) -> dict:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        counted = _Counted(file)
        with tarfile.open(fileobj=counted, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = (dataset / name).stat().st_size
                with (dataset / name).open("rb") as content:
                    tar.addfile(info, content)
    partial.replace(path)
    return {
        "name": path.name,
        "bytes": counted.size,
        "sha256": counted.sum.hexdigest(),
        "files": len(names),
    }


def _read_tar(path: Path, size: int, sha256: str, out: Path) -> None:
    """Unpack one tar while its sum is taken, so that it is read once."""
    if not path.is_file():
        raise DataError(f"{path} is missing; copy all tars of the dataset.")
    if path.stat().st_size != size:
        raise DataError(f"{path} has {path.stat().st_size} bytes, not {size}; copy it again.")
    with path.open("rb") as file:
        counted = _Counted(file)
        try:
            with tarfile.open(fileobj=counted, mode="r|") as tar:
                for member in tar:
                    _write_member(tar, member, path, out)
        except tarfile.TarError as error:
            raise DataError(f"{path} is damaged ({error}); copy it again.") from None
        while counted.read(CHUNK):
            pass
    if counted.sum.hexdigest() != sha256:
        shutil.rmtree(out)
        raise DataError(f"{path} differs from what was packed (SHA-256); copy it again.")


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, out: Path) -> None:
    name = PurePosixPath(member.name)
    if not member.isfile() or name.is_absolute() or ".." in name.parts:
        raise DataError(f"{path} holds {member.name!r}, which no dataset does; it is not trusted.")
    target = out.joinpath(*name.parts)
    if target.is_file() and target.stat().st_size == member.size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with partial.open("wb") as file:
        shutil.copyfileobj(tar.extractfile(member), file, CHUNK)
    os.replace(partial, target)  # noqa: PTH105


def run(
    command: Callable[..., Path | list[Path]],
    arguments: list[str] | None,
    names: tuple[str, str],
    about: str,
) -> int:
    """A command line of two paths; returns its exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m data_prep.{command.__name__}")
    parser.description = about
    parser.add_argument("source", metavar=names[0])
    parser.add_argument("target", metavar=names[1])
    if command is pack:
        parser.add_argument("--shard-size", type=float, metavar="GB", help="begin a new tar then")
    given = parser.parse_args(arguments)
    options = {}
    if getattr(given, "shard_size", None):
        options["shard_bytes"] = int(given.shard_size * 1e9)

    def work() -> int:
        made = command(given.source, given.target, **options)
        print(*(made if isinstance(made, list) else [made]), sep="\n")
        return 0

    return exit_code(work)


def main(arguments: list[str] | None = None) -> int:
    """Run `python -m data_prep.pack`."""
    return run(pack, arguments, ("DIR", "TAR"), "Pack a dataset into a tar for a network drive.")


if __name__ == "__main__":
    sys.exit(main())
