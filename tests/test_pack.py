import json
import tarfile

import pytest
from sources_common import save, snapshot

from data_prep import pack as module
from data_prep import unpack as unpack_module
from data_prep.convert import convert
from data_prep.pack import pack, unpack
from data_prep.schema import DataError


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
def test_a_dataset_comes_back_as_it_was(dataset, tmp_path, shard_bytes):
    tars = pack(dataset, tmp_path / "drive" / "d.tar", shard_bytes)
    assert (len(tars) > 2) == bool(shard_bytes)
    again = pack(dataset, tmp_path / "again" / "d.tar", shard_bytes)
    assert [t.read_bytes() for t in tars] == [t.read_bytes() for t in again]
    out = unpack(tmp_path / "drive" / "d.tar", tmp_path / "local")
    assert unpacked(out) == snapshot(dataset)
    for tar in tars:  # a finished folder needs them no more
        tar.unlink()
    assert unpack(tmp_path / "drive" / "d.tar", out) == out


def test_an_interrupted_run_goes_on_where_it_stopped(dataset, tmp_path, monkeypatch):
    pack(dataset, tmp_path / "d.tar", 1500)
    real, calls = module._read_tar, []

    def dies(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(module, "_read_tar", dies)
    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path / "d.tar", tmp_path / "local")
    assert not (tmp_path / "local").exists()
    unpack(tmp_path / "d.tar", tmp_path / "local")
    assert calls[3] == calls[2]  # the first two were not read again
    assert unpacked(tmp_path / "local") == snapshot(dataset)


def test_damage_is_found_and_nothing_is_left(dataset, tmp_path):
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


@pytest.mark.parametrize("name", ["../evil", "/evil", "link"])
def test_members_that_no_dataset_holds_are_refused(tmp_path, name):
    with tarfile.open(tmp_path / "d.tar", "w") as tar:
        info = tarfile.TarInfo(name)
        if name == "link":
            info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(info)
    data = (tmp_path / "d.tar").read_bytes()
    shard = {"name": "d.tar", "bytes": len(data), "sha256": "0" * 64}
    (tmp_path / "d.tar.json").write_text(json.dumps({"shards": [shard]}))
    with pytest.raises(DataError, match="it is not trusted"):
        unpack(tmp_path / "d.tar", tmp_path / "a" / "local")
    assert not (tmp_path / "evil").exists() and not (tmp_path / "a" / "evil").exists()


def test_the_commands(dataset, tmp_path, capsys):
    tar, out = str(tmp_path / "d.tar"), str(tmp_path / "local")
    assert module.main([str(dataset), tar]) == 0 and unpack_module.main([tar, out]) == 0
    assert capsys.readouterr().out.split() == [tar, out]
    assert module.main([str(dataset), str(tmp_path / "d.zip")]) == 2
    assert unpack_module.main([tar, str(tmp_path / "in")]) == 1
    assert "already holds something else" in capsys.readouterr().err
