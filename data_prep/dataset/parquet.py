"""Parquet files of a dataset with the pictures inside, for the Hub and for streaming.

`DIR/data/<split>-00000-of-00001.parquet`, which `load_dataset(DIR)` reads: the columns of
metadata.jsonl with `images`, a list of pictures, in the place of `images_file_names`.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

SHARD_BYTES = 400 * 2**20  # of pictures; a shard is what a streaming reader fetches at once
GROUP_ROWS, GROUP_BYTES = 200, 32 * 2**20  # of a row group, which is held in memory


def write_shards(
    rows: Iterable[str],
    root: Path,
    folder: Path,
    split: str,
    parts: bool = False,
    answers: bool = False,
) -> list[Path]:
    """Write rows as parquet shards of one split; the same rows give the same files.

    Args:
        rows: lines of metadata.jsonl.
        root: folder of their pictures.
        folder: of the shards.
        split: its name.
        parts: whether the contents of prompts are lists of parts.
        answers: whether rows have several right answers.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(exist_ok=True)
    schema = _schema(parts, answers)
    shards: list[Path] = []
    writer: pq.ParquetWriter | None = None
    group: list[dict] = []
    in_group = in_shard = 0

    def flush() -> None:
        nonlocal writer, group, in_group
        if writer is None:
            shards.append(folder / f"{split}-{len(shards):05d}.parquet")
            writer = pq.ParquetWriter(shards[-1], schema, compression="snappy")
        writer.write_table(pa.Table.from_pylist(group, schema))
        group, in_group = [], 0

    def end_shard() -> None:
        nonlocal writer, in_shard
        if group:
            flush()
        if writer is not None:
            writer.close()
        writer, in_shard = None, 0

    for line in rows:
        row = json.loads(line)
        names = row.pop("images_file_names")
        row["images"] = [
            {"bytes": (root / name).read_bytes(), "path": Path(name).name} for name in names
        ]
        size = sum(len(image["bytes"]) for image in row["images"])
        group.append(row)
        in_group, in_shard = in_group + size, in_shard + size
        if len(group) == GROUP_ROWS or in_group > GROUP_BYTES:
            flush()
        if in_shard > SHARD_BYTES:
            end_shard()
    end_shard()
    return [
        shard.rename(folder / f"{split}-{index:05d}-of-{len(shards):05d}.parquet")
        for index, shard in enumerate(shards)
    ]


def _schema(parts: bool, answers: bool) -> "pa.Schema":
    import pyarrow as pa

    part = pa.struct([("type", pa.string()), ("text", pa.string())])
    content = pa.list_(part) if parts else pa.string()
    message = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    asked = pa.list_(pa.struct([("role", pa.string()), ("content", content)]))
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = ("task", "language", "group")
    columns = [
        ("id", pa.string()),
        ("images", pa.list_(image)),
        ("prompt", asked),
        ("completion", message),
        *((name, pa.string()) for name in texts),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("source", pa.string()),
        ("meta", pa.string()),
        *([("answers", pa.list_(pa.string()))] if answers else []),
    ]
    # By this metadata `datasets` knows that the structs are pictures.
    text = {"dtype": "string", "_type": "Value"}
    features: dict[str, dict] = {name: text for name, _ in columns}
    features |= {name: {"dtype": "int64", "_type": "Value"} for name in ("width", "height")}
    features |= {
        name: {"feature": {"role": text, "content": text}, "_type": "List"}
        for name in ("prompt", "completion")
    }
    if answers:
        features["answers"] = {"feature": text, "_type": "List"}
    if parts:
        content = {"feature": {"type": text, "text": text}, "_type": "List"}
        features["prompt"] = {"feature": {"role": text, "content": content}, "_type": "List"}
    features["images"] = {"feature": {"_type": "Image"}, "_type": "List"}
    info = json.dumps({"info": {"features": features}})
    return pa.schema(columns, metadata={"huggingface": info})
