import random
from itertools import islice
from pathlib import Path

import pytest

from data_prep.dataset.schema import PROMPTS, DataError
from data_prep.synthetic.fonts import find_fonts
from data_prep.synthetic.toy_content import write_toy
from ocrkit.data.rows import text_of
from ocrkit.places import sample
from tests.tools.samples import LIMIT, SAMPLES, Lines, items_of

DOMAINS = sorted(SAMPLES.keys() - {"print"})


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_shipped_sample_is_small_and_fit_to_train_on(domain, tmp_path):
    from ocrkit import TrainConfig, load_data

    folder = sample(domain)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= LIMIT
    data = load_data(TrainConfig(dataset=str(folder), output_dir=str(tmp_path)))
    assert not (tmp_path / "skipped.jsonl").exists()
    assert list(data) == ["train", "validation", "test"]
    assert len(data["train"]) >= 240 and len(data["test"]) >= 60 and len(data["validation"]) >= 30
    groups = [set(rows["group"]) for rows in data.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    for rows in data.values():
        assert {height % 32 for height in rows["height"]} == {0}
    asked = {row["content"] for rows in data.values() for (row,) in rows["prompt"]}
    assert domain == "vqa" or asked <= set(PROMPTS.values())


@pytest.mark.parametrize("domain", SAMPLES)
def test_a_sample_is_drawn_by_its_seed(domain):
    spec = SAMPLES[domain]
    if isinstance(spec, Lines):
        try:
            find_fonts(spec.language, spec.face)
        except DataError as error:
            pytest.skip(str(error))
    first, again = (list(islice(items_of(spec), 3)) for _ in range(2))
    for item, same in zip(first, again, strict=True):
        assert (item.text, item.group) == (same.text, same.group)
        picture = item.pictures[0].load()
        assert picture == same.pictures[0].load() and picture[8:12] == b"WEBP"


def test_the_sample_of_questions_asks_what_the_embedded_model_was_not_trained_on(tmp_path):
    from ocrkit import TrainConfig, load_data

    rng = random.Random(0)
    known = {write_toy("questions", rng).question for _ in range(600)}
    data = load_data(TrainConfig(dataset=str(sample("vqa")), output_dir=str(tmp_path)))
    asked = {text_of(prompt).rpartition("\n\n")[2] for prompt in data["train"]["prompt"]}
    assert len(known) == 10 and len(asked) == 20 and not asked & known


def test_the_samples_are_those_that_the_notebooks_take():
    for domain in DOMAINS:
        sources = Path(__file__).parents[2].glob("notebooks/src/*.py")
        assert any(f'config.dataset, "{domain}"' in path.read_text("utf-8") for path in sources)


def test_the_sample_of_print_is_read_almost_without_errors(tmp_path):
    """What replay keeps is what the embedded model reads."""
    from ocrkit import TrainConfig, load_data, load_model, predict
    from ocrkit.metrics import cer

    folder = sample("print")
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= LIMIT
    config = TrainConfig.from_recipe("quickstart", dataset=str(folder), output_dir=str(tmp_path))
    data = load_data(config)
    assert list(data) == ["train"] and len(data["train"]) == SAMPLES["print"].count
    rows = data["train"].select(range(40))
    truths = [text_of(row["completion"]) for row in rows]
    assert len(set(data["train"]["id"])) == SAMPLES["print"].count
    assert cer(truths, predict(*load_model(config), rows, config)) < 0.05
