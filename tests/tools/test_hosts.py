import pytest

from notebooks.install import KEPT
from tests.tools import hosts


def test_only_lines_of_a_name_and_a_version_are_read(tmp_path):
    path = tmp_path / "colab-gpu.txt"
    path.write_text("torch==2.11.0+cu128\nfastai @ file:///x\n# a comment\nnumpy==2.1.3\n")
    assert hosts.read_list(path) == ["torch==2.11.0+cu128", "numpy==2.1.3"]


def test_lists_of_a_cpu_are_completed_and_kaggle_is_among_the_hosts(tmp_path):
    for name in ("colab-cpu-2026-08.txt", "colab-gpu-2026-08.txt"):
        (tmp_path / name).write_text("numpy==2.1.3\n")
    listed = hosts.hosts(tmp_path)
    assert {name: gpu for name, (_, gpu) in listed.items()} == {
        "kaggle-gpu": True,
        "colab-cpu-2026-08": False,
        "colab-gpu-2026-08": True,
    }
    assert "torch==2.11.0+cpu" in listed["colab-cpu-2026-08"][0]


@pytest.mark.parametrize(
    ("line", "installed", "replaced"),
    [
        ("installed: nothing new; replaced: nothing.", {}, {}),
        (
            "installed: jiwer 4.0.0, trl 1.15.0; replaced: datasets 4.0.0 by 4.8.5.",
            {"jiwer": "4.0.0", "trl": "1.15.0"},
            {"datasets": ("4.0.0", "4.8.5")},
        ),
    ],
)
def test_the_line_of_the_install_cell_is_read(line, installed, replaced):
    assert hosts.parse(f"Installing\nocrkit of /content/ocrkit-src; {line}\n") == (
        installed,
        replaced,
    )


def test_host_faults_are_named():
    change = hosts.Change({"unsloth": "2026.10.9", "triton": "3.5"}, {"Pillow": ("11", "13")})
    assert hosts.faults(change, gpu=True) == ["Pillow is replaced"]
    assert hosts.faults(change, gpu=False) == [
        "Pillow is replaced",
        "triton is installed without a GPU",
        "unsloth is installed without a GPU",
    ]
    assert hosts.faults(hosts.Change({}, {}), gpu=True) == ["unsloth is not installed"]
    assert set("torch torchvision numpy pillow ipykernel ipywidgets protobuf pandas".split()) <= (
        set(KEPT)
    )
