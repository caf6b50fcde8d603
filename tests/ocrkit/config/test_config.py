import pytest

from ocrkit.config import TrainConfig, recipes
from ocrkit.errors import ConfigError


def test_every_recipe_loads():
    assert "quickstart" in recipes()
    for name in recipes():
        assert TrainConfig.from_recipe(name).model_name_or_path


def test_overrides_replace_the_recipe():
    config = TrainConfig.from_recipe("quickstart", learning_rate=1e-3, max_steps=7)
    assert (config.learning_rate, config.max_steps) == (1e-3, 7)
    assert config.lora_r == TrainConfig.from_recipe("quickstart").lora_r


def test_text_is_converted_as_shells_pass_it():
    config = TrainConfig.from_dict(
        {
            "learning_rate": "1e-3",
            "max_steps": "7",
            "use_peft": "false",
            "load_in_4bit": "false",
            "max_pixels": "none",
        }
    )
    assert (config.learning_rate, config.max_steps) == (1e-3, 7)
    assert (config.use_peft, config.max_pixels) == (False, None)
    sizes = [{"per_device_train_batch_size": value} for value in ("auto", "4", 4)]
    sizes = [TrainConfig.from_dict(size).per_device_train_batch_size for size in sizes]
    assert sizes == ["auto", 4, 4]
    assert TrainConfig.from_dict({"sft_kwargs": "{neftune_noise_alpha: 5}"}).sft_kwargs == {
        "neftune_noise_alpha": 5
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lerning_rate": 1e-3}, "did you mean 'learning_rate'"),
        ({"warmup_ratio": 0.1}, "called warmup_steps"),
        ({"max_seq_length": 512}, "called max_length"),
        ({"max_steps": "many"}, "must be of type int"),
        ({"seed": True}, "must be of type int"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"lora_r": 0}, "at least 1"),
        ({"per_device_train_batch_size": "many"}, "not one of a number, auto"),
        ({"load_best_model_at_end": True}, "set eval_steps"),
        ({"load_best_model_at_end": True, "eval_steps": 7, "save_steps": 10}, "no multiple"),
        ({"early_stopping_patience": 3, "eval_steps": 5}, "set metric_for_best_model"),
        ({"early_stopping_patience": 3, "metric_for_best_model": "cer"}, "set eval_steps"),
        ({"loss": "focal_confusion_weighted"}, "weights from evaluations"),
        ({"streaming": True}, "set max_steps"),
        ({"streaming": True, "max_steps": 5, "curriculum": "length"}, "never sees them together"),
        ({"curriculum_steps": 1.5}, "at least 0 and at most 1"),
        ({"use_peft": False}, "load_in_4bit=True cannot train every weight"),
        ({"learning_rate": "nan"}, "learning_rate=nan must be a finite number"),
        ({"focal_gamma": "nan"}, "must be a finite number"),
        ({"confusion_max_weight": "inf"}, "must be a finite number"),
        ({"num_train_epochs": 0}, "num_train_epochs=0.0 must be above 0"),
        ({"max_steps": 0}, "max_steps=0 must be at least 1, or -1"),
        ({"lora_dropout": 1.5}, "lora_dropout=1.5 must be at least 0 and below 1"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 must be at least 0"),
        ({"locale": "xx"}, "locale='xx' is not one of en, "),
        ({"backend": "jax"}, "not one of auto, unsloth, transformers"),
        ({"min_pixels": 500, "max_pixels": 400}, "no picture fits"),
        ({"sft_kwargs": {"seed": 1}}, "field of its own"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(values, message):
    with pytest.raises(ConfigError, match=message) as raised:
        TrainConfig.from_dict(values)
    assert "\n" not in str(raised.value)


def test_a_locale_may_name_a_region():
    assert TrainConfig(locale="de-AT").locale == "de-AT"


def test_a_misspelt_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        TrainConfig.from_recipe("quikstart")


def test_a_recipe_may_be_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    TrainConfig.from_recipe("quickstart", seed=7).save(path)
    assert TrainConfig.from_recipe(str(path)) == TrainConfig.from_recipe("quickstart", seed=7)
    path.write_text("seed: [1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        TrainConfig.from_recipe(str(path))


def test_parameters_come_from_a_notebook():
    namespace = {"recipe": "quickstart", "seed": 3, "learning_rate": None, "receipts": 5}
    namespace |= {"_": 1, "TrainConfig": TrainConfig, "pytest": pytest}
    config = TrainConfig.from_parameters(namespace, also=["receipts"])
    assert config == TrainConfig.from_recipe("quickstart", seed=3)


def test_a_misspelt_parameter_is_refused():
    # papermill only warns about it.
    with pytest.raises(ConfigError, match="did you mean 'max_steps'"):
        TrainConfig.from_parameters({"recipe": "quickstart", "max_step": 3})
    with pytest.raises(ConfigError, match="did you mean 'receipts'"):
        TrainConfig.from_parameters({"reciepts": 3}, also=["receipts"])


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"vqa": "Answer."}, "not one of transcription, extraction"),
        ({"transcription": ""}, "must be a text that asks for it"),
        ({"extraction": 3}, "must be a text that asks for it"),
    ],
)
def test_invalid_prompts_are_refused(prompts, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_dict({"prompts": prompts})


@pytest.mark.parametrize("name", ["packing", "eval_packing", "padding_free"])
def test_rows_with_pictures_are_not_joined(name):
    with pytest.raises(ConfigError, match=f"sft_kwargs has {name}, which joins texts"):
        TrainConfig(sft_kwargs={name: True})
    assert TrainConfig(sft_kwargs={name: False})
