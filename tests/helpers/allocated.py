"""Peak memory of a real training step on a CPU, from the events of torch's allocator."""

import torch

from ocrkit.training.losses import loss_terms, supervised_loss
from ocrkit.training.probe import training_mode


def allocated_peak(model, batch, config, optimizer=None, half=None) -> int:
    """Bytes at the peak of a step: weights, batch, optimizer's state and what the step allocates.

    Where batches are accumulated, the step finds the gradients of an earlier one.

    Args:
        optimizer: its state is made before the step that is measured.
        half: dtype of autocast; None: none.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if optimizer:
        for weight in trained:
            weight.grad = torch.zeros_like(weight)
        optimizer.step()
        optimizer.zero_grad()
    tensors = [*model.parameters(), *model.buffers(), *batch.values()]
    if optimizer:
        tensors += [t for state in optimizer.state.values() for t in state.values()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    held = sum(storages.values())

    def step():
        if config.gradient_accumulation_steps > 1:
            for weight in trained:
                weight.grad = torch.zeros_like(weight)
        with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
            loss = supervised_loss(model, batch, **loss_terms(config))
        loss.backward()
        if optimizer:
            optimizer.step()
            optimizer.zero_grad()
        for weight in trained:
            weight.grad = None

    with training_mode(model, config):
        step()  # what is made once and kept, such as caches of kernels
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return held + peak
