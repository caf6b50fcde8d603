import pytest

from data_prep.dataset import schema
from ocrkit.errors import ConfigError, DataError, choice


def test_a_choice_names_the_value_the_choices_and_the_nearest():
    choice("loss", "focal", ("focal", "cross_entropy"))
    with pytest.raises(ConfigError, match=r"loss='focl' .* focal, cross_entropy; .* 'focal'\?"):
        choice("loss", "focl", ("focal", "cross_entropy"))
    with pytest.raises(ConfigError, match=r"not one of a, b\."):
        choice("loss", "zzz", ("a", "b"))


def test_both_packages_raise_the_same_data_error():
    assert DataError is schema.DataError and issubclass(ConfigError, ValueError)
