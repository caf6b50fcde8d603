import json

import pytest

from data_prep.synthetic.toys import SCHEMA
from ocrkit.display.tables import interval
from ocrkit.evaluation.compare import compare
from ocrkit.evaluation.evaluation import score
from ocrkit.evaluation.tables import (
    confusion_table,
    conjunct_table,
    document_table,
    field_table,
    kind_table,
    loss_table,
    match_table,
    metric_table,
)
from ocrkit.metrics import wilson
from ocrkit.metrics.text import bangla_kind, graphemes


def compared(truths, first, last, **columns):
    """A comparison of two systems, each text a group of its own."""

    def scored(name, readings):
        return score(
            [
                {"id": str(n), "reference": truth, "prediction": read, "group": str(n)}
                | {key: values[n] for key, values in columns.items()}
                for n, (truth, read) in enumerate(zip(truths, readings))
            ],
            name,
        )

    return compare(scored("base", first), scored("tuned", last))


def test_metric_table_shows_known_metrics_of_the_comparison():
    comparison = compared(["abcd", "efgh"], ["abcx", ""], ["abcd", "efgh"])
    table = metric_table(comparison, ["cer", "teds"])
    assert [row["metric"] for row in table.rows] == ["CER"]
    assert table.rows[0]["base"] == interval(comparison.evaluations[0].metrics["cer"])


def test_kinds_of_error_add_up():
    comparison = compared(["Abc", "a b", "xyz"], ["abc", "ab", "xyz"], ["Abc", "a b", "xyz"])
    rows = {
        row["kind of error"]: (row["base"], row["tuned"]) for row in kind_table(comparison).rows
    }
    assert rows["none"] == ("1", "3")
    assert rows["case"] == ("1", "0") and rows["spacing"] == ("1", "0")
    assert sum(int(base) for base, _ in rows.values()) == 3


def test_bangla_letters_by_kind():
    assert graphemes("ক্ষ্মী") == ["ক্ষ্মী"]
    kinds = {"ক্ষ": "conjunct", "ন্ধ্যা": "conjunct", "র‍্য": "conjunct", "কি": "vowel sign"}
    kinds |= {
        "ক": "plain letter",
        "য়": "plain letter",
        "ৎ": "plain letter",
        "১": "other",
        "": "other",
    }
    assert {unit: bangla_kind(unit) for unit in kinds} == kinds


def test_conjunct_table_counts_whole_conjuncts():
    truths = ["সন্ধ্যা", "ক্ষমা", "আমি"]
    comparison = compared(truths, ["সন্ধা", "কমা", "আমি"], truths)
    rows = {row["letter"]: row for row in conjunct_table(comparison).rows}
    assert rows["conjunct"]["in the truth"] == "2"
    assert rows["conjunct"]["base"].startswith("0.0 %")
    assert rows["conjunct"]["tuned"].startswith("100.0 %")
    assert rows["plain letter"]["base"].startswith("100.0 %")
    base = comparison.evaluations[0]
    confusions = confusion_table(base, "grapheme", kind="conjunct").rows
    assert {(row["truth"], row["read as"], row["of"]) for row in confusions} == {
        ("ন্ধ্যা", "ন্ধা", "1"),
        ("ক্ষ", "ক", "1"),
    }


def test_answers_match_under_each_profile_and_by_column():
    comparison = compared(
        ["The cat", "A1"],
        ["cat", "B2"],
        ["the cat.", "A1"],
        language=["en", "en"],
        knowledge=[True, False],
    )
    rows = {(r["questions"], r["profile"]): r for r in match_table(comparison, by="knowledge").rows}
    assert rows["all", "strict"]["tuned"].startswith("50.0 %")
    assert rows["all", "squad"]["tuned"].startswith("100.0 %")
    assert rows["knowledge: True", "squad"]["base"].startswith("100.0 %")
    assert rows["knowledge: False", "squad"]["base"].startswith("0.0 %")


def test_document_tables_show_schema_fields_and_tables():
    truths = [
        '{"shop":"A","date":"01/02/2020","total":"3.00"}',
        "<table><tr><td>a</td></tr></table>",
    ]
    readings = ['{"shop":"A","date":"01/02/2020","total":3}', truths[1]]
    comparison = compared(truths, ["?", "?"], readings, task=["extraction", "transcription"])
    rows = {r["metric"]: r for r in document_table(comparison, json.loads(SCHEMA.read_text())).rows}
    assert rows["valid JSON"]["tuned"].startswith("100.0 %")
    assert rows["passes the schema"]["tuned"].startswith("0.0 %")
    assert rows["numeric accuracy"]["tuned"].startswith("100.0 %")
    assert rows["TEDS"]["base"].startswith("0.0 %")
    # One row alone is JSON, and one row tells little.
    low, high = wilson(1, 1)
    assert rows["valid JSON"]["tuned"] == interval({"value": 1, "low": low, "high": high})
    fields = {row["field"]: row["tuned"] for row in field_table(comparison).rows}
    assert fields["shop"].startswith("100.0 %") and fields["total"].startswith("0.0 %")


def test_loss_table_shows_labels_of_the_answer_only(thermal, config, processor):
    from ocrkit import load_data
    from ocrkit.data.rows import text_of

    rows = load_data(config)["train"]
    context, trained = loss_table(rows[0], processor, config).rows
    answer = text_of(rows[0]["completion"])
    assert trained["text"] == answer + processor.tokenizer.eos_token
    assert answer not in context["text"] and "Transcribe" in context["text"]
    assert context["text"].count("<|image_pad|>") == 1


@pytest.mark.parametrize("knowledge", [True, False])
def test_questions_lose_their_knowledge(tmp_path, knowledge):
    from data_prep.synthetic.toys import toys
    from ocrkit import TrainConfig, load_data
    from ocrkit.data.load import without_knowledge
    from ocrkit.data.rows import text_of
    from ocrkit.evaluation.browser import gallery

    toys(tmp_path / "data", "questions", 20, knowledge=knowledge, progress=False)
    config = TrainConfig(dataset=str(tmp_path / "data"), output_dir=str(tmp_path / "run"))
    rows = load_data(config)["train"]
    bare = without_knowledge(rows)
    asked = [text_of(row["prompt"]) for row in bare]
    assert asked == [json.loads(row["meta"])["question"] for row in rows]
    assert bare["id"] == rows["id"] and bare["completion"] == rows["completion"]
    assert (asked != [text_of(row["prompt"]) for row in rows]) == knowledge
    # Questions differ, so they stand beside their pictures.
    assert asked[0].strip() in gallery(bare, 4).text and "<img" in gallery(bare, 4).html
