import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.dataset.archive import Tree
from data_prep.dataset.schema import Reject
from data_prep.sources._parquet import read_batches, read_parquet


def test_rows_are_numbered_through_batches(tmp_path):
    pq.write_table(pa.table({"n": list(range(40))}), tmp_path / "a.parquet")
    tree = Tree(tmp_path)
    assert list(read_parquet(tree, "a.parquet")) == [(i, {"n": i}) for i in range(40)]
    assert [batch.num_rows for batch in read_batches(tree, "a.parquet", 15)] == [15, 15, 10]


def test_a_broken_file_ends_in_one_reject(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    ((number, reject),) = read_parquet(Tree(tmp_path), "a.parquet")
    assert number == 0 and isinstance(reject, Reject)
    assert reject.reason == "unreadable parquet" and "\n" not in reject.detail
