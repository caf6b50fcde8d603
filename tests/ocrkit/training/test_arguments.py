import pytest

from ocrkit.config import TrainConfig
from ocrkit.errors import ConfigError
from ocrkit.training.arguments import sft_config


@pytest.fixture
def config(tmp_path):
    return TrainConfig.from_recipe("quickstart", output_dir=str(tmp_path))


def test_settings_are_passed_to_trl_under_their_names(config):
    config.learning_rate, config.weight_decay = 0.25, 0.5
    arguments = sft_config(config, evaluated=False)
    assert (arguments.learning_rate, arguments.weight_decay) == (0.25, 0.5)
    assert arguments.max_length is None and not arguments.packing
    assert str(arguments.eval_strategy.value) == "no"


def test_the_best_model_is_that_of_the_lowest_error_rate(config):
    config.metric_for_best_model, config.eval_steps = "exact_match", 5
    assert sft_config(config, evaluated=True).greater_is_better
    config.metric_for_best_model = "cer"
    arguments = sft_config(config, evaluated=True)
    assert not arguments.greater_is_better and arguments.metric_for_best_model == "eval_cer"


def test_sft_kwargs_override_the_kits_arguments(config):
    config.sft_kwargs = {"adam_beta1": 0.5, "dataloader_pin_memory": False}
    assert sft_config(config, evaluated=False).adam_beta1 == 0.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"adam_beta": 0.5}, "'adam_beta', which SFTConfig does not have; did you mean 'adam_beta"),
        ({"adam_beta1": "much"}, "adam_beta1='much' must be of type float"),
        ({"logging_steps": True}, "logging_steps=True must be of type"),
    ],
)
def test_names_and_types_that_trl_does_not_take_are_refused(config, wrong, message):
    config.sft_kwargs = wrong
    with pytest.raises(ConfigError, match=message):
        sft_config(config, evaluated=False)


def test_whole_models_are_not_trained_in_float16(config):
    config.dtype, config.use_peft, config.load_in_4bit = "float16", False, False
    with pytest.raises(ConfigError, match="dtype='float16' cannot train every weight"):
        sft_config(config, evaluated=False)
