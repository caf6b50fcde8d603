import base64
import json

from tests.helpers.chat_rows import messages, part
from tests.helpers.sources_common import (
    draw,
    encoded,
    reasons,
    run,
    save,
    texts,
)


def test_openai_parts_with_data_uris_and_paths(tmp_path):
    save(tmp_path / "a.png")
    uri = "data:image/jpeg;base64," + base64.b64encode(encoded(draw(mark=5), "JPEG")).decode()
    text = {"type": "text", "text": "Read this."}
    system = {"role": "system", "content": "You read."}
    contents = [
        [text, part(uri)],
        [part("a.png"), text],
        [part("https://example.org/a.png"), text],
        [part("data:image/png;base64,!!!"), text],
        [part("data:image/png,plain"), text],
        [{"type": "audio", "audio": "x"}],
        "no picture",
    ]
    records = [{"messages": [system, *messages(content, "OK")]} for content in contents]
    (tmp_path / "train.jsonl").write_text(
        "\n".join(map(json.dumps, [*records, {"messages": []}, 3]))
    )
    out = tmp_path / "out"
    summary, rows, rejects = run("openai", tmp_path / "train.jsonl", out)
    assert texts(rows) == ["OK", "OK"] and summary["rows"] == {"train": 2}
    assert rows[0].prompt == [system, *messages("Read this.")]
    assert (out / "train" / rows[0].images_file_names[0]).read_bytes() == base64.b64decode(
        uri.partition(",")[2]
    )
    assert reasons(rejects) == [
        *("remote image", "unreadable image", "unreadable image", "malformed record"),
        *("missing image", "malformed record", "malformed record"),
    ]
