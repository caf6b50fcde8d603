"""Packs a dataset into one tar (or a few) for a network drive, and unpacks it on a local disk.

Reading 100,000 small files through Drive takes hours, one large file minutes:
    python -m data_prep.pack data/signs drive/signs.tar
    python -m data_prep.unpack drive/signs.tar data/signs
Beside the tar lies `<tar>.json` with sizes and SHA-256 sums, which unpacking checks.
"""

import argparse
import contextlib
import hashlib
import json
import re
import shutil
import sys
import tarfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, cast

from data_prep.dataset.command import exit_code, expand_home, float_option, parse_arguments
from data_prep.dataset.files import is_inner_path, naming, write_whole, writing
from data_prep.dataset.schema import DataError, UsageError
from data_prep.dataset.staging import locked, rename_folder

CHUNK = 2**20
# Ending of the marker files `.<sha256>.done` in the staging folder; each lists the files of a tar
# that was unpacked completely.
_DONE = ".done"


def pack(
    dataset: str | Path,
    archive: str | Path,
    shard_bytes: int | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Pack a dataset folder; returns the tar files written.

    The same folder gives the same bytes. With `shard_bytes` another tar is begun after so much
    content: `signs.tar` becomes `signs-00000.tar` and so on. Tars take the place of those of
    an earlier pack only when all are written; earlier ones of other names are then deleted.

    Raises:
        DataError: `dataset` is no dataset, or holds a file name that other systems do not allow.
        FileExistsError: a file exists that no earlier pack wrote, and `overwrite` is false.
        OSError: the disk is full or cannot be written; earlier tars are as they were.
    """
    dataset, archive = expand_home(Path(dataset)), expand_home(Path(archive))
    if not (dataset / "dataset.json").is_file():
        raise DataError(f"{dataset} holds no dataset.json; name a folder that convert made.")
    if archive.suffix != ".tar":
        raise UsageError(f"{archive} must end in .tar.")
    with naming(archive.parent):
        archive.parent.mkdir(parents=True, exist_ok=True)
    parts = list(_divide(dataset, shard_bytes))
    names = [archive.name]
    if shard_bytes:
        names = [f"{archive.stem}-{index:05d}.tar" for index in range(len(parts))]
    older = _packed_before(archive)
    packed = _tars_of(archive, older)
    if not overwrite:
        _check_replaced(archive, names, packed, has_manifest=bool(older))
    new = [archive.with_name(f"{name}.new") for name in names]
    shards = []
    try:
        for name, files, path in zip(names, parts, new):
            with writing(path) as file:
                shards.append({"name": name, **_write_tar(dataset, files, file)})
        # Written before the tars are renamed, so that after a kill it lists all of them.
        _write_manifest(archive, {"shards": shards, "replaced": older})
        for name, path in zip(names, new):
            path.replace(archive.with_name(name))
        for name in packed.difference(names):
            archive.with_name(name).unlink()
    finally:
        for path in new:
            path.unlink(missing_ok=True)
    _write_manifest(archive, {"shards": shards})
    return [archive.with_name(name) for name in names]


def _write_manifest(archive: Path, manifest: dict) -> None:
    write_whole(_manifest_of(archive), json.dumps(manifest, indent=1) + "\n")


def _packed_before(archive: Path) -> list[dict]:
    """Entries of the manifest beside `archive` whose tars an earlier pack wrote.

    Empty where there is no manifest, or where it is damaged.
    """
    try:
        manifest = json.loads(_manifest_of(archive).read_bytes())
        shards = [*manifest["shards"], *manifest.get("replaced", [])]
        entries = [{key: shard[key] for key in ("name", "bytes", "sha256")} for shard in shards]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return [entry for entry in entries if _is_file_name(entry["name"])]


def _tars_of(archive: Path, entries: list[dict]) -> set[str]:
    """Names of the tars beside `archive` that exist with the size that an entry states."""
    paths = [(archive.with_name(entry["name"]), entry["bytes"]) for entry in entries]
    return {path.name for path, size in paths if path.is_file() and path.stat().st_size == size}


def _check_replaced(archive: Path, names: list[str], packed: set[str], has_manifest: bool) -> None:
    """Raise FileExistsError where a tar or manifest would be replaced that no pack wrote."""
    others = [archive.with_name(name) for name in names if name not in packed]
    for path in others if has_manifest else [_manifest_of(archive), *others]:
        if path.exists():
            raise FileExistsError(
                f"{path} exists and was not written by pack: give another name, or overwrite it "
                "with --overwrite (in Python overwrite=True)."
            )


def _is_file_name(name: object) -> bool:
    """Check that a name from a manifest is that of a file beside the manifest."""
    return is_inner_path(name) and "/" not in str(name)


def unpack(archive: str | Path, out: str | Path) -> Path:
    """Unpack tars of `pack`; returns the dataset folder.

    A folder that was unpacked completely is left alone; tars that an interrupted run unpacked
    completely are not read again.

    Raises:
        UsageError: the name of `archive` does not end in .tar.
        DataError: a tar is missing, damaged, or holds names that no dataset has.
        OSError: the disk is full or cannot be written.
    """
    archive, out = expand_home(Path(archive)), expand_home(Path(out))
    if archive.suffix != ".tar":
        raise UsageError(f"{archive} must end in .tar.")
    shards = _read_manifest(archive)
    sums = [sha256 for _, _, sha256 in shards]
    done = out / ".unpacked.json"
    if _unpacked_sums(done) == sums:
        return out
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out} already holds something else; choose another folder.")
    staging = out.parent / f".{out.name}.unpacking"
    with naming(out):
        staging.mkdir(parents=True, exist_ok=True)
        with locked(out):
            finished = _clear(staging, sums)
            for name, size, sha256 in shards:
                if sha256 not in finished:
                    files = _read_tar(archive.with_name(name), size, sha256, staging)
                    write_whole(staging / f".{sha256}{_DONE}", json.dumps(files))
            for marker in staging.glob(f".*{_DONE}"):
                marker.unlink()
            write_whole(staging / done.name, json.dumps({"shards": sums}))
            rename_folder(staging, out)
    return out


def _read_manifest(archive: Path) -> list[tuple[str, int, str]]:
    """Read name, bytes and SHA-256 of every tar; DataError where the manifest is invalid."""
    path = _manifest_of(archive)
    try:
        manifest = json.loads(path.read_bytes())
        shards = [(s["name"], s["bytes"], s["sha256"]) for s in manifest["shards"]]
    except FileNotFoundError:
        raise DataError(f"{path} is missing; copy it beside the tar.") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); pack again.") from None
    if not shards:
        raise DataError(f"{path} lists no tar; pack again.")
    for name, size, sha256 in shards:
        if not _is_file_name(name):
            raise DataError(f"{path} names the tar {name!r}, which leads elsewhere; do not use it.")
        if not isinstance(size, int) or not re.fullmatch("[0-9a-f]{64}", str(sha256)):
            raise DataError(f"{path} states no size and SHA-256 of {name}; pack again.")
    return shards


def _unpacked_sums(path: Path) -> list[str] | None:
    """Read the checksums of the tars from which a folder was unpacked; None without them."""
    try:
        # Version 0.1.0 wrote the whole manifest.
        shards = json.loads(path.read_bytes())["shards"]
        return [shard if isinstance(shard, str) else shard["sha256"] for shard in shards]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _clear(staging: Path, sums: list[str]) -> set[str]:
    """Delete files of incompletely unpacked tars; returns the checksums of complete ones.

    An interrupted run may have unpacked another dataset's tars, or half of a damaged one.
    """
    finished: dict[str, list[str]] = {}
    for sha256 in sums:
        marker = staging / f".{sha256}{_DONE}"
        # Markers of an older version list no files, and are ignored.
        with contextlib.suppress(OSError, ValueError, TypeError):
            finished[sha256] = [marker.name, *json.loads(marker.read_bytes())]
    keep = set(chain.from_iterable(finished.values()))
    for path in sorted(staging.rglob("*"), reverse=True):  # a folder after its files
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):  # it is not empty
                path.rmdir()
        elif path.relative_to(staging).as_posix() not in keep:
            path.unlink()
    return set(finished)


def _manifest_of(archive: Path) -> Path:
    return archive.with_name(archive.name + ".json")


def _divide(dataset: Path, shard_bytes: int | None) -> Iterator[list[str]]:
    """Divide the dataset's files, in a fixed order, into shards of about `shard_bytes`."""
    names: list[str] = []
    size = 0
    files = sorted(path for path in dataset.rglob("*") if path.is_file())
    for path in files:
        name = path.relative_to(dataset).as_posix()
        if name.startswith("."):
            continue
        if not is_inner_path(name):
            raise DataError(
                f"{path} cannot be packed, as other systems allow no such name; rename it."
            )
        names.append(name)
        size += path.stat().st_size
        if shard_bytes and size >= shard_bytes:
            yield names
            names, size = [], 0
    if names:
        yield names


class _HashedFile:
    """Wrapper of a file that computes the size and checksum of the bytes read or written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.size, self.sum = file, 0, hashlib.sha256()

    def _update(self, data: bytes) -> bytes:
        self.size += len(data)
        self.sum.update(data)
        return data

    def write(self, data: bytes) -> int:
        """Write bytes to the file."""
        return self.file.write(self._update(bytes(data)))

    def read(self, count: int = -1) -> bytes:
        """Read bytes from the file."""
        return self._update(self.file.read(count))


def _write_tar(dataset: Path, names: list[str], file: IO[bytes]) -> dict:
    hashed = _HashedFile(file)
    stream = cast(IO[bytes], hashed)
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = (dataset / name).stat().st_size
            with (dataset / name).open("rb") as content:
                tar.addfile(info, content)
    return {"bytes": hashed.size, "sha256": hashed.sum.hexdigest(), "files": len(names)}


def _read_tar(path: Path, size: int, sha256: str, out: Path) -> list[str]:
    """Unpack a tar and check its checksum while it is read; returns the names of its files."""
    if not path.is_file():
        raise DataError(f"{path} is missing; copy all tars of the dataset.")
    if path.stat().st_size != size:
        raise DataError(f"{path} has {path.stat().st_size} bytes, not {size}; copy it again.")
    names = []
    with path.open("rb") as file:
        hashed = _HashedFile(file)
        try:
            with tarfile.open(fileobj=cast(IO[bytes], hashed), mode="r|") as tar:
                for member in tar:
                    _write_member(tar, member, path, out)
                    names.append(member.name)
        except tarfile.TarError as error:
            raise DataError(f"{path} is damaged ({error}); copy it again.") from None
        while hashed.read(CHUNK):
            pass
    if hashed.sum.hexdigest() != sha256:
        raise DataError(f"{path} differs from what was packed (SHA-256); copy it again.")
    return names


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, out: Path) -> None:
    # A hidden file could pass for the marker of an unpacked tar.
    if not member.isfile() or not is_inner_path(member.name) or member.name.startswith("."):
        raise DataError(f"{path} holds {member.name!r}, which no dataset does; it is not trusted.")
    target = out / member.name
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not an atomic write: no file counts before its tar is unpacked completely.
    with target.open("wb") as file:
        shutil.copyfileobj(cast(IO[bytes], tar.extractfile(member)), file, CHUNK)


def main(arguments: list[str] | None = None) -> int:
    """Run `python -m data_prep.pack`; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.pack",
        description="Pack a dataset into a tar for a network drive.",
    )
    parser.add_argument("dataset", metavar="DIR")
    parser.add_argument("archive", metavar="TAR")
    parser.add_argument(
        "--shard-size",
        type=float_option(at_least=1e-6, at_most=1e6),
        metavar="GB",
        help="begin another tar after so many GB",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace tars that pack did not write, too"
    )
    options = parse_arguments(parser, arguments)

    def work() -> int:
        shard_bytes = options.shard_size and int(options.shard_size * 1e9)
        print(*pack(options.dataset, options.archive, shard_bytes, options.overwrite), sep="\n")
        return 0

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
