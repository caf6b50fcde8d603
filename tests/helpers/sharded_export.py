"""Shard a trained model over two processes and export it: `torchrun sharded_export.py MODEL OUT`.

accelerate ignores FSDP on CPUs without a word, so torch's own `fully_shard` shards it, on gloo.
"""

import os
import sys
from types import SimpleNamespace

import torch
from accelerate import DistributedType
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ocrkit import TrainConfig, export
from ocrkit.models.backend import gathered_weights
from ocrkit.models.load import load_model
from ocrkit.models.read import weights_fingerprint

torch.distributed.init_process_group("gloo")
mesh = torch.distributed.init_device_mesh("cpu", (2,))
main = torch.distributed.get_rank() == 0
source, out, use_peft = sys.argv[1], sys.argv[2], sys.argv[3] == "adapters"
config = TrainConfig.from_recipe("quickstart", model_name_or_path=source, use_peft=use_peft)
model, processor = load_model(config)
whole = weights_fingerprint(model)
fully_shard(model, mesh=mesh)
assert all(isinstance(weight, DTensor) for weight in model.parameters())
accelerator = SimpleNamespace(distributed_type=DistributedType.FSDP)
gathered = gathered_weights(accelerator, model)
if main:
    assert weights_fingerprint(model, gathered) == whole
    export(model, processor, out, gathered=gathered)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
sys.stdout.flush()
os._exit(0)  # Threads of gloo that have not ended yet abort a process that ends by itself.
