from data_prep import unpack
from data_prep.convert import convert
from data_prep.pack import pack
from tests.helpers.sources_common import save, snapshot


def test_the_command_unpacks_a_tar(tmp_path, capsys):
    save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "a.txt").write_text("word")
    convert("pairs", [tmp_path / "in"], tmp_path / "dataset", progress=False)
    pack(tmp_path / "dataset", tmp_path / "d.tar")
    assert unpack.main([str(tmp_path / "d.tar"), str(tmp_path / "out")]) == 0
    folder = capsys.readouterr().out.splitlines()[-1]
    before = snapshot(tmp_path / "dataset")
    after = snapshot(tmp_path / "out")
    assert folder.startswith(str(tmp_path / "out"))
    assert before.items() <= after.items()


def test_a_missing_tar_is_one_sentence(tmp_path, capsys):
    assert unpack.main([str(tmp_path / "none.tar"), str(tmp_path / "out")]) == 1
    assert "none.tar" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
