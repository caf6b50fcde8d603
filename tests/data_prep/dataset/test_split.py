import pytest

from data_prep.dataset.schema import UsageError
from data_prep.dataset.split import assign_splits, group_key, official_split, parse_shares


def deal(sizes: dict[str, int], seed: int = 0, shares=(0.8, 0.1, 0.1)) -> dict[str, set[int]]:
    """The splits that each group's rows landed in, the groups' rows interleaved."""
    rows = [name for i in range(max(sizes.values())) for name in sizes if i < sizes[name]]
    places = assign_splits([group_key(seed, name) for name in rows], shares)
    landed: dict[str, set[int]] = {}
    for name, place in zip(rows, places):
        landed.setdefault(name, set()).add(int(place))
    return landed


def test_a_group_is_never_divided_and_shares_are_met():
    sizes = {f"writer{i}": 1 + i % 7 for i in range(500)}
    landed = deal(sizes)
    assert all(len(places) == 1 for places in landed.values())
    total = sum(sizes.values())
    for index, share in enumerate((0.8, 0.1, 0.1)):
        rows = sum(size for name, size in sizes.items() if landed[name] == {index})
        assert abs(rows / total - share) < 0.01


def test_groups_are_dealt_in_hash_order_to_the_emptiest_split():
    # Worked by hand: equal groups fill train, validation and test once each, then train.
    names = sorted((f"g{i}" for i in range(10)), key=lambda name: group_key(3, name))
    landed = deal(dict.fromkeys(names, 1), seed=3)
    assert [landed[name] for name in names] == [{0}, {1}, {2}] + [{0}] * 7


def test_three_groups_fill_three_splits_and_share_0_stays_empty():
    sizes = {"a": 5, "b": 5, "c": 5}
    assert set.union(*deal(sizes).values()) == {0, 1, 2}
    assert set.union(*deal(sizes, shares=(0.9, 0.0, 0.1)).values()) == {0, 2}
    assert set.union(*deal(sizes, shares=(0.0, 0.0, 1.0)).values()) == {2}


def test_the_seed_decides_and_the_order_of_rows_does_not():
    sizes = {f"g{i}": 2 for i in range(40)}
    backwards = dict(reversed(sizes.items()))
    assert deal(sizes, 1) == deal(backwards, 1) != deal(sizes, 2)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("HWDB2.0Train", "train"),
        ("HWDB1.1tst_gnt", "test"),
        ("HWDB1.1trn_gnt/1001-f.gnt", "train"),
        ("0325updated.task1train(626p)", "train"),
        ("rec_gt_test.txt", "test"),
        ("data/val/labels.txt", "validation"),
        ("dev.jsonl", "validation"),
        ("Validation", "validation"),
        ("test/train_001.txt", "train"),
        ("trainer/x.txt", None),
        ("sroieTest", "test"),
        ("latest.txt", None),
        ("testament.txt", None),
        ("interval.txt", None),
        ("device.txt", None),
        ("labels.csv", None),
    ],
)
def test_split_is_recognized_in_file_names(name, split):
    assert official_split(name) == split


def test_shares_are_read_or_refused():
    assert parse_shares("source") is None
    assert parse_shares("0.7, 0.2,0.1") == (0.7, 0.2, 0.1)
    for wrong in ("0.8,0.2", "0.8,0.3,0.1", "1.2,-0.1,-0.1", "train", "", "nan,0.5,0.5"):
        with pytest.raises(UsageError, match="add up to 1"):
            parse_shares(wrong)
