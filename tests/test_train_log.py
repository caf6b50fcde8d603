from ocrkit.train_log import append_log, read_log


def test_a_log_cut_off_by_a_crash_is_read(tmp_path):
    path = tmp_path / "train_log.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_log(path) == [{"step": 1, "loss": 2.0}]
    assert read_log(tmp_path / "none.jsonl") == []


def test_a_log_grows_by_lines(tmp_path):
    path = tmp_path / "train_log.jsonl"
    append_log(path, {"step": 1, "loss": 2.0})
    append_log(path, {"step": 2, "samples": ["ক", "x\ny"]})
    assert [entry["step"] for entry in read_log(path)] == [1, 2]
    assert read_log(path)[1]["samples"] == ["ক", "x\ny"]
