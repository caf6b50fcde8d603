from dataclasses import fields

from ocrkit.config import TrainConfig
from ocrkit.config.names import ATTENTION, LOSSES, OPTIMIZERS, RENAMED, SCHEDULES


def test_names_are_listed_once():
    for names in (ATTENTION, LOSSES, OPTIMIZERS, SCHEDULES):
        assert len(set(names)) == len(names) > 1


def test_defaults_are_among_the_names():
    config = TrainConfig()
    assert config.loss in LOSSES and config.optim in OPTIMIZERS
    assert config.lr_scheduler_type in SCHEDULES


def test_renamed_settings_map_to_existing_settings():
    settings = {spec.name for spec in fields(TrainConfig)}
    assert not settings & set(RENAMED)
    heirs = {new.split(" ")[0] for new in RENAMED.values()}
    assert heirs - settings == {"train_sampling_strategy"}  # of sft_kwargs
