import io
import json
import random

import pytest

from data_prep.sources import _jsonstream as jsonstream
from data_prep.sources._jsonstream import json_elements
from tests.tools.fuzz import json_mutations


def read(text, key=None):
    return list(json_elements(io.BytesIO(text if isinstance(text, bytes) else text.encode()), key))


def test_streamed_elements_equal_those_of_json(monkeypatch):
    chance = random.Random(0)
    value = [
        {"n": chance.randrange(10**9), "t": "가'\"\\[]{}" * chance.randrange(4), "l": [1.5, None]}
        for _ in range(200)
    ] + [1234567, "text", [], {}, -0.5e3, True]
    for chunk in (1, 3, 7, 64, 2**20):
        monkeypatch.setattr(jsonstream, "CHUNK", chunk)
        assert read(json.dumps(value, ensure_ascii=False)) == value
        assert read(b"\xef\xbb\xbf" + json.dumps(value, indent=2).encode()) == value
        nested = {"info": {"a": [1]}, "skip": [1, [2]], "n": 12, "x": value, "after": [3]}
        assert read(json.dumps(nested), "x") == value
        assert read(json.dumps(nested), "after") == [3]


def test_elements_before_broken_json_are_yielded():
    elements = json_elements(io.BytesIO(b'[{"a": 1}, {"b": 2}, {"c": '))
    assert next(elements) == {"a": 1} and next(elements) == {"b": 2}
    with pytest.raises(ValueError, match=r".+"):
        next(elements)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1 2]", "[1,]", "[,1]", "[NaN]", "nothing", "[" * 100_000, "[1"]
)
def test_json_without_an_array_raises_value_error(text):
    with pytest.raises(ValueError, match=r".+"):
        read(text)


def test_a_key_that_is_missing_or_no_array_is_a_value_error():
    for text in ('{"a": [1]}', '{"x": 5}', "[1]", '{"x"', "{}"):
        with pytest.raises(ValueError, match=r".+"):
            read(text, "x")


def test_element_above_the_size_limit_raises_value_error(monkeypatch):
    monkeypatch.setattr(jsonstream, "MAX_ELEMENT", 10_000)
    monkeypatch.setattr(jsonstream, "CHUNK", 100)
    with pytest.raises(ValueError, match="longer than 10000"):
        read('["' + "x" * 100_000)


@pytest.mark.parametrize("count", [300, pytest.param(2_000, marks=pytest.mark.slow)])
def test_json_stream_accepts_and_rejects_what_json_does(count):
    text = json.dumps([{"id": i, "text": "한글\n", "box": [1, 2.5, -3]} for i in range(5)])
    for data in json_mutations(text, count):
        try:
            expected = json.loads(data.decode("utf-8-sig", "surrogateescape"))
        except (ValueError, RecursionError):
            expected = None
        try:
            elements = read(data)
        except ValueError:
            elements = None
        # After the array's end nothing is read, and NaN is refused.
        if isinstance(expected, list) and "NaN" not in str(data) and "Infinity" not in str(data):
            assert elements == expected
