import pytest

from ocrkit.config import TrainConfig
from ocrkit.config.augmentation import AUGMENTATIONS, augmentation_ranges
from ocrkit.errors import ConfigError


def test_augmentation_number_stands_for_a_range():
    strengths = {"rotation": 1.0, "perspective": 0.02, "brightness": 0.2, "contrast": 0.2}
    strengths |= {"noise": 0.04, "erosion": 0.6, "dilation": 0.6, "shadow": 0.3, "jpeg": 40}
    strengths["blur"] = [0.2, 0.4]
    ranges = augmentation_ranges({**strengths, "probability": 0.1, "device": "cpu"})
    assert set(ranges) == set(AUGMENTATIONS)
    assert ranges["rotation"] == (-1, 1) and ranges["perspective"] == (0, 0.02)
    assert ranges["brightness"] == (0.8, 1.2) and ranges["jpeg"] == (40, 95)
    assert ranges["blur"] == (0.2, 0.4)
    config = TrainConfig.from_dict({"augmentation": "{rotation: 2, probability: 0.3}"})
    assert config.augmentation == {"rotation": 2, "probability": 0.3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rotatoin": 2}, "did you mean 'rotation'"),
        ({"flip": 1}, "is no augmentation; there are rotation, perspective"),
        ({"blur": -1}, "blur=-1 is neither a strength nor"),
        ({"brightness": [1.2, 0.8]}, r"brightness=\[1.2, 0.8\] is neither"),
        ({"noise": "much"}, "noise='much' is neither"),
        ({"blur": True}, "blur=True is neither"),
        ({"jpeg": [20, 40, 60]}, "neither a strength"),
        ({"blur": 1, "probability": 2}, "probability=2 is neither"),
        ({"probability": 0.3}, "names nothing to do"),
        ({"blur": 1, "device": "tpu"}, "not one of cpu, cuda"),
    ],
)
def test_invalid_augmentation_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message) as raised:
        TrainConfig(augmentation=settings)
    assert "\n" not in str(raised.value)
