import pytest

from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 0}, "max_steps=0 must be at least 1, or -1"),
        ({"streaming": True}, "has no known length; set max_steps"),
        ({"min_pixels": 9000, "max_pixels": 4000}, "min_pixels=9000 is above max_pixels=4000"),
        ({"use_peft": False, "load_in_4bit": True}, "load_in_4bit=True cannot train every weight"),
        ({"device_map": "gpu"}, "device_map='gpu' is unknown"),
        ({"attn_implementation": "user/kernel"}, "is code of the Hub"),
        ({"load_best_model_at_end": True}, "needs evaluations: eval_steps is none"),
        ({"early_stopping_patience": 3, "eval_steps": 5}, "needs a metric"),
        ({"metric_for_best_model": "cerr"}, "did you mean 'cer'?"),
        ({"prompts": {"vqa": "Read."}}, "prompts: task='vqa' is not one of"),
        ({"sft_kwargs": {"packing": True}}, "cannot join rows with pictures"),
        ({"sft_kwargs": {"learning_rate": 1.0}}, "set it as a field of its own"),
        ({"report_to": "mlflow"}, "is not one of none, tensorboard, wandb"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        TrainConfig(**settings)
    assert message in str(error.value)
