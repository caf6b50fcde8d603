"""The check of a GPU, in small on a CPU."""

import json

import pytest

from tests.tools import gpu


def test_without_a_card_the_script_says_what_to_do(tmp_path, capsys):
    assert gpu.main(["--out", str(tmp_path)]) == 1
    assert "torch sees no GPU" in capsys.readouterr().out
    assert gpu.main(["--small", "--only", "speed", "--out", str(tmp_path)]) == 2
    assert "has no part speed; it has precision, korean, peers" in capsys.readouterr().err


@pytest.mark.slow
def test_all_parts_run_in_small_on_a_cpu(tmp_path):
    gpu.main(["--small", "--minutes", "60", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "bench-gpu.json").read_text())
    failed = {name: part["error"] for name, part in result["parts"].items() if "error" in part}
    assert not failed
    assert list(result["parts"]) == [
        "precision",
        "korean",
        "peers",
        "four bits",
        "out of memory",
        "forecast",
        "windows",
    ]
    for name in ("precision", "four bits", "out of memory"):
        assert all(row["met"] for row in result["parts"][name]["rows"]), name
    sides = result["parts"]["windows"]["rows"][0]["sides"]["kit"]
    assert sides["difference"] < 1e-5
