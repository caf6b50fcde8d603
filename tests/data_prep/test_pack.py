import hashlib
import io
import json
import shutil
import tarfile

import pytest

from data_prep import pack as module
from data_prep import unpack as unpack_module
from data_prep.convert import convert
from data_prep.dataset.schema import DataError
from data_prep.pack import pack, unpack
from tests.helpers.sources_common import save, snapshot


@pytest.fixture
def dataset(tmp_path):
    for index in range(20):
        save(tmp_path / "in" / f"{index}.png", mark=index)
    lines = [json.dumps({"image": f"{i}.png", "text": f"{i}"}) for i in range(20)]
    (tmp_path / "in" / "t.jsonl").write_text("\n".join(lines))
    convert("table", tmp_path / "in" / "t.jsonl", tmp_path / "data", progress=False)
    return tmp_path / "data"


def unpacked(folder):
    return {name: data for name, data in snapshot(folder).items() if not name.startswith(".")}


@pytest.mark.parametrize("shard_bytes", [None, 1500])
def test_packed_and_unpacked_dataset_is_identical(dataset, tmp_path, shard_bytes):
    tars = pack(dataset, tmp_path / "drive" / "d.tar", shard_bytes)
    assert (len(tars) > 2) == bool(shard_bytes)
    again = pack(dataset, tmp_path / "again" / "d.tar", shard_bytes)
    assert [t.read_bytes() for t in tars] == [t.read_bytes() for t in again]
    out = unpack(tmp_path / "drive" / "d.tar", tmp_path / "local")
    assert unpacked(out) == snapshot(dataset)
    for tar in tars:  # a finished folder needs them no more
        tar.unlink()
    assert unpack(tmp_path / "drive" / "d.tar", out) == out


def test_interrupted_unpack_resumes(dataset, tmp_path, monkeypatch):
    pack(dataset, tmp_path / "d.tar", 1500)
    real, calls = module._read_tar, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "_read_tar", dies)
    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path / "d.tar", tmp_path / "local")
    assert not (tmp_path / "local").exists()
    unpack(tmp_path / "d.tar", tmp_path / "local")
    assert calls[3] == calls[2]  # the first two were not read again
    assert len(calls) == len(list(tmp_path.glob("d-*.tar"))) + 1
    assert unpacked(tmp_path / "local") == snapshot(dataset)


def test_damaged_tar_is_refused_and_leaves_no_files(dataset, tmp_path):
    (tar,) = pack(dataset, tmp_path / "d.tar")
    good = tar.read_bytes()
    out = tmp_path / "local"
    for damage, cause in (
        (good[:-512], "has .* bytes, not"),
        (good[:700] + b"\xff" + good[701:], "SHA-256"),
        (b"\xff" * len(good), "is damaged"),
    ):
        tar.write_bytes(damage)
        with pytest.raises(DataError, match=cause):
            unpack(tar, out)
        assert not out.exists()
    tar.unlink()
    with pytest.raises(DataError, match="is missing; copy all"):
        unpack(tar, out)
    (tmp_path / "d.tar.json").unlink()
    with pytest.raises(DataError, match=r"d\.tar\.json is missing"):
        unpack(tar, out)
    with pytest.raises(DataError, match=r"holds no dataset\.json"):
        pack(tmp_path / "in", tmp_path / "x.tar")


def hostile(folder, name, member=None):
    """Write a tar whose manifest or whose member has a name, with right sums."""
    folder.mkdir(parents=True)
    tar_path = folder / "d.tar"
    with tarfile.open(tar_path, "w") as tar:
        info = member or tarfile.TarInfo("dataset.json")
        info.size = 0 if member else 2
        tar.addfile(info, None if member else io.BytesIO(b"{}"))
    data = tar_path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    shard = {"name": name, "bytes": len(data), "sha256": sha256}
    (folder / "d.tar.json").write_text(json.dumps({"shards": [shard]}))
    return tar_path


EVIL = ["../evil", "/evil", "/../../evil", "", ".", "..", "a/../../evil", "a//evil", "a/./evil"]
EVIL += ["..\\evil", "a\\evil", "C:evil", "C:\\evil"]


@pytest.mark.parametrize("name", [*EVIL, ".hidden", f".{64 * '0'}.done", ".unpacked.json"])
def test_tar_members_that_no_dataset_holds_are_refused(tmp_path, name):
    tar = hostile(tmp_path / "drive", "d.tar", tarfile.TarInfo(name))
    with pytest.raises(DataError, match="it is not trusted"):
        unpack(tar, tmp_path / "a" / "local")
    assert not list(tmp_path.rglob("*evil*")) and not (tmp_path / "a" / "local").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("more", [tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_tar_members_that_are_no_files_are_refused(tmp_path, kind, more):
    for number, type_ in enumerate((kind, more)):
        info = tarfile.TarInfo("link")
        info.type, info.linkname = type_, "/etc/passwd"
        tar = hostile(tmp_path / str(number), "d.tar", info)
        with pytest.raises(DataError, match="it is not trusted"):
            unpack(tar, tmp_path / "local")


@pytest.mark.parametrize("name", [*EVIL, "a/d.tar", "d\0.tar", None, 7, ["d.tar"]])
def test_manifest_with_tars_outside_its_folder_is_refused(tmp_path, name):
    tar = hostile(tmp_path / "drive", name)
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match=r"d\.tar\.json names the tar .* leads elsewhere"):
        unpack(tar, tmp_path / "local")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("sha256", ["", "/../../x", "0" * 63, "G" * 64, None])
def test_invalid_checksums_are_refused(tmp_path, sha256):
    tar = hostile(tmp_path / "drive", "d.tar")
    shard = {"name": "d.tar", "bytes": 1, "sha256": sha256}
    for text, cause in (
        (json.dumps({"shards": [shard]}), "states no size and SHA-256 of d.tar"),
        ('{"shards": []}', "lists no tar"),
        ("[" * 100_000, "is damaged"),
        ("[]", "is damaged"),
    ):
        tar.with_name("d.tar.json").write_text(text)
        with pytest.raises(DataError, match=cause):
            unpack(tar, tmp_path / "local")


def interrupted(tar, out, monkeypatch, after):
    """Unpack until so many tars are done, then stop as Ctrl-C does."""
    real, calls = module._write_member, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) > after:
            raise KeyboardInterrupt
        real(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "_write_member", dies)
        unpack(tar, out)


@pytest.mark.parametrize("shard_bytes", [None, 1500])
@pytest.mark.parametrize("after", [1, 5, 15])
def test_unpack_removes_files_of_an_interrupted_older_dataset(
    dataset, tmp_path, monkeypatch, after, shard_bytes
):
    older = tmp_path / "older"
    shutil.copytree(dataset, older)
    for path in older.rglob("*.png"):  # of the same names and sizes
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    (older / "train" / "extra").mkdir(parents=True)
    (older / "train" / "extra" / "more.png").write_bytes(b"more")
    pack(older, tmp_path / "older.tar", shard_bytes)
    pack(dataset, tmp_path / "d.tar", shard_bytes)
    interrupted(tmp_path / "older.tar", tmp_path / "local", monkeypatch, after)
    unpack(tmp_path / "d.tar", tmp_path / "local")
    assert unpacked(tmp_path / "local") == snapshot(dataset)
    assert not (tmp_path / "local" / "train" / "extra").exists()


def test_unpack_does_not_reuse_files_of_a_damaged_tar_or_older_version(
    dataset, tmp_path, monkeypatch
):
    (tar,) = pack(dataset, tmp_path / "d.tar")
    sha256 = json.loads((tmp_path / "d.tar.json").read_text())["shards"][0]["sha256"]
    staging = tmp_path / ".local.unpacking"
    for path in dataset.rglob("*.png"):
        copy = staging / path.relative_to(dataset)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"x" * path.stat().st_size)
    (staging / f".d.tar.{sha256[:16]}.done").touch()  # version 0.1.0's mark
    (staging / f".{sha256}.done").touch()
    unpack(tar, tmp_path / "local")
    assert unpacked(tmp_path / "local") == snapshot(dataset)


def test_folder_unpacked_by_version_0_1_0_is_kept(dataset, tmp_path):
    (tar,) = pack(dataset, tmp_path / "d.tar")
    out = unpack(tar, tmp_path / "local")
    (out / ".unpacked.json").write_text((tmp_path / "d.tar.json").read_text())
    tar.unlink()
    assert unpack(tar, out) == out
    (out / ".unpacked.json").write_text("{")
    with pytest.raises(DataError, match="already holds something else"):
        unpack(tar, out)


def test_a_full_disk_leaves_what_was_packed_before(dataset, tmp_path, full_disk):
    pack(dataset, tmp_path / "drive" / "d.tar", 1500)
    before = snapshot(tmp_path / "drive")
    (dataset / "more.txt").write_text("more")
    refused = 0
    while True:
        with full_disk(refused) as writes:
            try:
                pack(dataset, tmp_path / "drive" / "d.tar", 1500)
                break
            except OSError as error:
                assert f"while writing {writes[refused]}".removesuffix(".part") in str(error)
        after = snapshot(tmp_path / "drive")
        if refused + 1 < len(before) + 1:  # all but the last write, of the manifest alone
            assert after == before
        refused += 1
    assert refused == len(before) + 1
    unpack(tmp_path / "drive" / "d.tar", tmp_path / "local")
    assert unpacked(tmp_path / "local") == snapshot(dataset)


def test_a_full_disk_while_unpacking_is_named_and_goes_on(dataset, tmp_path, full_disk):
    pack(dataset, tmp_path / "d.tar", 1500)
    for refused in (0, 1, 5, 20, 25):
        out = tmp_path / str(refused)
        with full_disk(refused), pytest.raises(OSError, match="No space left on the disk of"):
            unpack(tmp_path / "d.tar", out)
        assert not out.exists()
        unpack(tmp_path / "d.tar", out)
        assert unpacked(out) == snapshot(dataset)


@pytest.mark.parametrize("name", ["d.tar", "d.tar.json"])
def test_pack_overwrites_only_its_own_tars(dataset, tmp_path, name, capsys):
    (tmp_path / "drive").mkdir()
    (tmp_path / "drive" / name).write_text("{}")
    command = [str(dataset), str(tmp_path / "drive" / "d.tar")]
    assert module.main(command) == 1
    error = capsys.readouterr().err
    assert f"{name} exists and was not written by pack" in error and "--overwrite" in error
    assert {path.name for path in (tmp_path / "drive").iterdir()} == {name}
    assert module.main([*command, "--overwrite"]) == 0
    (dataset / "more.txt").write_text("more")
    assert module.main(command) == 0


def test_shards_and_a_single_tar_replace_each_other(dataset, tmp_path):
    tar = tmp_path / "drive" / "d.tar"
    tar.parent.mkdir()
    (tar.parent / "d-00009.tar").write_text("of somebody else")
    for shard_bytes in (None, 1500, 4000, None):
        tars = pack(dataset, tar, shard_bytes)
        kept = {tar.with_name("d.tar.json"), tar.with_name("d-00009.tar")}
        assert set(tar.parent.iterdir()) == kept | set(tars)
        assert unpacked(unpack(tar, tmp_path / f"{shard_bytes}{len(tars)}")) == snapshot(dataset)


def test_tars_outside_the_folder_of_the_manifest_stay(dataset, tmp_path):
    tar = tmp_path / "drive" / "d.tar"
    pack(dataset, tar)
    (tmp_path / "other.tar").write_bytes(b"1234")
    manifest = json.loads(tar.with_name("d.tar.json").read_text())
    manifest["shards"].append({"name": "../other.tar", "bytes": 4, "sha256": "0" * 64})
    tar.with_name("d.tar.json").write_text(json.dumps(manifest))
    pack(dataset, tar)
    assert (tmp_path / "other.tar").is_file()


def test_python_calls_expand_the_home_folder(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "data")
    (tmp_path / "home").symlink_to(dataset)
    assert pack("~/home", "~/d.tar") == [tmp_path / "d.tar"]
    assert unpack("~/d.tar", "~/local") == tmp_path / "local"
    assert unpacked(tmp_path / "local") == snapshot(dataset)
    assert not (tmp_path / "data" / "~").exists()


def test_a_killed_pack_does_not_block_the_next(dataset, tmp_path, killed_at):
    step, killed = 0, [True]
    while killed:
        folder = tmp_path / str(step)
        pack(dataset, folder / "d.tar")
        (dataset / "more.txt").write_text(str(step) * (step + 1))
        with killed_at(step) as killed:
            pack(dataset, folder / "d.tar")
        pack(dataset, folder / "d.tar")
        unpack(folder / "d.tar", folder / "local")
        assert unpacked(folder / "local") == snapshot(dataset)
        step += 1
    assert step > 3


def test_pack_and_unpack_commands_run(dataset, tmp_path, capsys):
    tar, out = str(tmp_path / "d.tar"), str(tmp_path / "local")
    assert module.main([str(dataset), tar]) == 0 and unpack_module.main([tar, out]) == 0
    assert capsys.readouterr().out.split() == [tar, out]
    assert module.main([str(dataset), str(tmp_path / "d.zip")]) == 2
    assert unpack_module.main([tar, str(tmp_path / "in")]) == 1
    assert "already holds something else" in capsys.readouterr().err
    for main in (module.main, unpack_module.main):
        for wrong in ("", "a\0b"):
            with pytest.raises(SystemExit, match="2"):
                main([tar, wrong])
    for size in ("0", "-1", "nan", "inf", "1e400", "1e-12"):
        with pytest.raises(SystemExit, match="2"):
            module.main([str(dataset), tar, "--shard-size", size])
    assert unpack_module.main([".", out]) == 2
