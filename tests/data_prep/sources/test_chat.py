import json

import pytest

from tests.helpers.chat_rows import messages, part, turns
from tests.helpers.sources_common import (
    save,
)
from tests.tools.fuzz import assert_survives, json_mutations

RECORDS = {
    "llava": [{"id": "1", "image": "a.png", "conversations": turns("<image>A", "B", "C", "D")}] * 2,
    "openai": {"messages": messages([part("a.png"), {"type": "text", "text": "A"}], "B")},
    "trl": {"images": ["a.png"], "prompt": messages("A"), "completion": messages("", "B")[1:]},
    "aqua": [{"image": "a.png", "question": "A", "answer": "B", "need_external_knowledge": True}],
}


@pytest.mark.parametrize("count", [100, pytest.param(2_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("source", RECORDS)
def test_mutated_records_give_only_rows_and_rejects(tmp_path, source, count):
    save(tmp_path / "in" / "a.png")
    name = "train.json" if isinstance(RECORDS[source], list) else "train.jsonl"
    assert_survives(source, json_mutations(json.dumps(RECORDS[source]), count), tmp_path, name)
