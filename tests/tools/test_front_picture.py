import pytest

from ocrkit import TrainConfig, load_data
from ocrkit.evaluation.evaluation import score
from ocrkit.places import sample
from tests.tools.front_picture import GREEN, RED, WIDTH, front_picture


@pytest.fixture
def run(tmp_path):
    config = TrainConfig(dataset=str(sample("korean")), output_dir=str(tmp_path))
    config.save(tmp_path / "config.yaml")
    rows = load_data(config)["test"].select(range(4))
    truths = [row["completion"][0]["content"] for row in rows]
    for name, readings in (("base", ["???", *truths[1:]]), ("tuned", truths)):
        records = [
            {"id": row["id"], "reference": truth, "prediction": reading}
            for row, truth, reading in zip(rows, truths, readings)
        ]
        score(records, name).save(tmp_path / "eval" / name)
    return tmp_path


def test_the_picture_shows_a_line_that_only_the_tuned_model_reads(run):
    picture = front_picture(run)
    assert picture.width == WIDTH
    colours = {"#{:02x}{:02x}{:02x}".format(*colour) for _, colour in picture.getcolors(1 << 20)}
    assert {RED, GREEN} <= colours


def test_a_run_that_learned_nothing_is_an_error(run):
    records = [{"id": "a", "reference": "x", "prediction": "x"}]
    for name in ("base", "tuned"):
        score(records, name).save(run / "eval" / name, overwrite=True)
    with pytest.raises(ValueError, match="no line that only the tuned model reads"):
        front_picture(run)
