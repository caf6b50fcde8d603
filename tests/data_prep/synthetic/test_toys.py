import json
import random
import re

import numpy as np
import pytest

from data_prep.dataset.schema import UsageError
from data_prep.synthesize import main
from data_prep.synthetic.receipts import BASE_FONTS, TILL_FONTS
from data_prep.synthetic.render import draw_line, load_font, shipped_fonts
from data_prep.synthetic.toy_content import TASKS, Toy, rephrased, write_toy
from data_prep.synthetic.toys import LINE, SCHEMA, draw_toy, toy_picture, toys
from data_prep.validate import validate
from ocrkit.evaluation.evaluate import records_of
from ocrkit.evaluation.evaluation import score
from tests.helpers.sources_common import pictures, read_rows, snapshot, texts
from tests.helpers.toys import many

FONTS = shipped_fonts(*BASE_FONTS, *TILL_FONTS)


def sample(task, rng, damage):
    toy = write_toy(task, rng)
    return toy, toy_picture(toy, rng, FONTS, damage)


@pytest.mark.parametrize("task", TASKS)
def test_the_seed_decides_a_sample(task):
    samples = [sample(task, random.Random(seed), 0.5) for seed in (1, 1, 2)]
    toys_drawn = [toy for toy, _ in samples]
    pixels = [picture.tobytes() for _, picture in samples]
    assert toys_drawn[0] == toys_drawn[1] and pixels[0] == pixels[1]
    assert toys_drawn[0].completion != toys_drawn[2].completion and pixels[0] != pixels[2]


@pytest.mark.parametrize("task", TASKS)
def test_pictures_fit_tokens_of_16_pixels(task):
    rng = random.Random(0)
    for damage in (0, 1):
        sizes = {sample(task, rng, damage)[1].size for _ in range(40)}
        assert all(width % 16 == 0 and 64 <= width <= 336 for width, _ in sizes)
        assert {height for _, height in sizes} == {
            "receipts": {96},
            "tables": {64, 96},
            "questions": {32},
        }[task]


@pytest.mark.parametrize("task", TASKS)
def test_every_cell_is_drawn_whole(task):
    for number, toy in enumerate(many(task, 60)):
        rng = random.Random(number)
        font = load_font(str(rng.choice(FONTS)), 20)
        picture = np.asarray(draw_toy(toy, font, rng))
        for line, row in enumerate(toy.rows):
            strip = picture[LINE * line : LINE * (line + 1)]
            for cell in row:
                # What a rule covers is left out: the rows on the edge of a line.
                sought = np.asarray(draw_line(cell, font, LINE))[2:-2]
                windows = np.lib.stride_tricks.sliding_window_view(strip[2:-2], sought.shape)
                assert (windows[0] == sought).all(axis=(1, 2)).any(), (toy, cell)


def test_damage_option_sets_the_share_of_damaged_pictures():
    rng = random.Random(0)
    clean = [sample("receipts", rng, 0.3)[1].getextrema()[1] == 255 for _ in range(200)]
    assert 120 <= sum(clean) <= 160


@pytest.mark.parametrize(
    "task, row_task",
    [("receipts", "extraction"), ("tables", "transcription"), ("questions", "vqa")],
)
def test_a_dataset_is_valid_and_the_same_for_the_same_seed(task, row_task, tmp_path, capsys):
    arguments = ["toys", "--task", task, "--count", "30", "--seed", "4", "--out"]
    for name in ("a", "b"):
        assert main([*arguments, str(tmp_path / name)]) == 0
    assert "train 23, validation 2, test 5" in capsys.readouterr().out
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")
    rows = read_rows(tmp_path / "a")
    assert {row.task for row in rows} == {row_task} and len({row.group for row in rows}) == 30
    schema = SCHEMA if task == "receipts" else None
    result = validate(tmp_path / "a", schema=schema, plot=False)
    assert result["ok"] and not result["errors"] and sum(result["rows"].values()) == 30


def test_drawing_more_toys_keeps_the_first_ones(tmp_path):
    toys(tmp_path / "few", "tables", 6, damage=0.5, progress=False)
    toys(tmp_path / "many", "tables", 12, damage=0.5, progress=False)

    def known(out):
        rows = read_rows(out)
        drawn = [pictures(out, row)[0].tobytes() for row in rows]
        return dict(zip((row.id for row in rows), zip(texts(rows), drawn)))

    few = known(tmp_path / "few")
    assert len(few) == 6 and few.items() <= known(tmp_path / "many").items()


def test_the_same_questions_with_and_without_their_knowledge(tmp_path):
    toys(tmp_path / "told", "questions", 40, progress=False)
    toys(tmp_path / "untold", "questions", 40, knowledge=False, progress=False)
    told, untold = read_rows(tmp_path / "told"), read_rows(tmp_path / "untold")
    for with_knowledge, other in zip(told, untold, strict=True):
        needed = json.loads(with_knowledge.meta)["need_external_knowledge"]
        assert (with_knowledge.id, with_knowledge.completion, with_knowledge.meta) == (
            other.id,
            other.completion,
            other.meta,
        )
        prompts = [row.prompt[0]["content"] for row in (with_knowledge, other)]
        assert (prompts[0] != prompts[1]) == needed and prompts[0].endswith(prompts[1])
        shown = [
            pictures(tmp_path / name, with_knowledge)[0].tobytes() for name in ("told", "untold")
        ]
        assert shown[0] == shown[1]
    records = [
        record | {"prediction": record["reference"]} for record in records_of(map(vars, told))
    ]
    by = score(records).by
    assert by["need_external_knowledge"]["True"]["n"] + by["need_external_knowledge"]["False"]["n"]
    assert sum(part["n"] for part in by["question"].values()) == 40


def test_questions_are_rephrased_and_nothing_else_changes(tmp_path, capsys):
    known = many("questions", 600)
    anew = [rephrased(toy, random.Random(n)) for n, toy in enumerate(known)]
    assert not {toy.question for toy in anew} & {toy.question for toy in known}
    assert [toy._replace(question="") for toy in anew] == [t._replace(question="") for t in known]
    # Which question is meant can still be told from its words.
    meant = {}
    for row, other in zip(known, anew):
        meant.setdefault(other.question, set()).add(row.question)
    assert {len(questions) for questions in meant.values()} == {1} and len(meant) == 20
    (table,) = many("tables", 1)
    assert rephrased(table, random.Random(0)) == table

    arguments = ["toys", "--task", "questions", "--count", "20", "--out"]
    assert main([*arguments, str(tmp_path / "known")]) == 0
    assert main([*arguments, str(tmp_path / "anew"), "--rephrase"]) == 0
    pairs = list(zip(read_rows(tmp_path / "known"), read_rows(tmp_path / "anew"), strict=True))
    assert all(row.id == other.id and row.completion == other.completion for row, other in pairs)
    assert all(row.prompt != other.prompt for row, other in pairs)


@pytest.mark.parametrize(
    "wrong, says",
    [
        (
            {"rephrase": True, "task": "tables"},
            "--rephrase is for questions and receipts, but --task is tables",
        ),
        ({"task": "poems"}, "--task is 'poems', but takes one of receipts, tables, questions"),
        ({"count": 0}, "--count is 0"),
        ({"damage": 1.5}, "--damage is 1.5, but takes a share from 0 to 1"),
        ({"knowledge": False}, "--without-knowledge is for questions, but --task is receipts"),
        ({"split": "source"}, "--split is 'source'"),
        ({"split": "1,2"}, "--split is '1,2'"),
    ],
)
def test_wrong_arguments_are_refused(wrong, says, tmp_path):
    with pytest.raises(UsageError, match=re.escape(says)):
        toys(tmp_path / "x", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_question_without_knowledge_is_its_own_prompt():
    assert Toy([["A 1"]], "Who?", "A").prompt == "Who?"
    assert Toy([["A 1"]], "Who?", "B", "A is B.").prompt == "A is B.\n\nWho?"
