"""Names that settings may have as values: losses, tasks, optimizers, schedules, attention kernels.

Those of transformers are compared with it by a test: importing it here would take seconds, and
Unsloth has to be imported first.
"""

# Tasks whose prompt may be set for all rows; in vqa every row holds its own question.
PROMPTED_TASKS = ("transcription", "extraction")
LOSSES = (
    "cross_entropy",
    "label_smoothing",
    "focal",
    "confusion_weighted",
    "focal_confusion_weighted",
)
OPTIMIZERS = tuple(
    """adamw_torch adamw_torch_fused adamw_torch_xla adamw_torch_npu_fused adafactor
    adamw_anyprecision adamw_torch_4bit adamw_torch_8bit ademamix sgd adagrad adamw_bnb_8bit
    adamw_8bit ademamix_8bit lion_8bit lion_32bit paged_adamw_32bit paged_adamw_8bit
    paged_ademamix_32bit paged_ademamix_8bit paged_lion_32bit paged_lion_8bit rmsprop rmsprop_bnb
    rmsprop_bnb_8bit rmsprop_bnb_32bit galore_adamw galore_adamw_8bit galore_adafactor
    galore_adamw_layerwise galore_adamw_8bit_layerwise galore_adafactor_layerwise lomo adalomo
    grokadamw schedule_free_radam schedule_free_adamw schedule_free_sgd apollo_adamw
    apollo_adamw_layerwise stable_adamw""".split()
)
SCHEDULES = tuple(
    """linear cosine cosine_with_restarts polynomial constant constant_with_warmup inverse_sqrt
    reduce_lr_on_plateau cosine_with_min_lr cosine_warmup_with_min_lr warmup_stable_decay
    greedy""".split()
)
ATTENTION = tuple(
    "eager sdpa flash_attention_2 flash_attention_3 flash_attention_4 flex_attention".split()
)

# {name in older versions and other kits: the setting's name}
RENAMED = {
    "warmup_ratio": "warmup_steps (a fraction under 1 is a share of all steps)",
    "max_seq_length": "max_length",
    "group_by_length": "train_sampling_strategy in sft_kwargs (length grouping is on by default)",
    "evaluation_strategy": "eval_steps",
    "eval_strategy": "eval_steps",
    "model_name": "model_name_or_path",
    "model": "model_name_or_path",
    "r": "lora_r",
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "target_modules": "lora_target_modules",
    "use_gradient_checkpointing": "gradient_checkpointing",
    "tokenizer": "model_name_or_path",
    "data": "dataset",
}
