import torch

from ocrkit import load_data, load_model
from ocrkit.training.plan import fastest, measure


def test_throughput_probe_changes_no_weight_and_scales_the_rate(config):
    config.learning_rate, config.learning_rate_batch_size = 0.01, 4
    data = load_data(config)
    model, processor = load_model(config)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    measured = measure(
        "one", data, model, processor, config, batches=2, per_device_train_batch_size=1
    )
    assert (measured["batch"], measured["workers"]) == (1, 0)
    assert measured["learning rate"] == 0.005
    assert measured["samples/s"] > 0 and measured["memory GiB"] > 0.05
    assert 0 <= float(measured["waiting"].rstrip("%")) <= 100
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert all(weight.grad is None for weight in model.parameters())


def test_throughput_is_that_of_the_fastest_step():
    steps = [
        {"samples/s": 3.0, "batch": 1, "workers": 0},
        {"samples/s": 9.0, "batch": 8, "workers": 0},
        {"samples/s": 8.0, "batch": 8, "workers": 2},
    ]
    assert fastest(steps) == {"per_device_train_batch_size": 8, "dataloader_num_workers": 0}
