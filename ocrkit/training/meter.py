"""Meter of a simulated step: live bytes and kernels of operations on fake tensors, one by one."""

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils._runtime_estimation import _VIEW_OPS
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten

# Bytes of a storage are rounded up to the smallest step of CUDA's allocator.
_STEP = 512
# Operations that move no bytes: views, and factories that only allocate.
_ALLOCATES = {aten.empty, aten.empty_like, aten.new_empty, aten.new_empty_strided}
_ALLOCATES |= {aten.empty_strided}
_MOVES_NOTHING = {*_VIEW_OPS, aten.unfold, aten.slice, aten.alias, aten.unbind, aten.select}
_MOVES_NOTHING |= {aten._local_scalar_dense, aten.is_same_size, aten.sym_size, aten.set_}
_MOVES_NOTHING |= {aten._reshape_alias, aten.lift_fresh}
_MOVES_NOTHING -= _ALLOCATES
_INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}


_DEVICE = torch.ops.prim.device.default


class _FastDeviceMode(TorchDispatchMode):
    """Mode that answers by itself, and without dynamo, what tensors are asked most: their device.

    That is two of three calls of a simulated step.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Its wrapper around every call would do nothing: nothing is compiled in a simulation.
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        if func is _DEVICE and isinstance(args[0], FakeTensor):
            within = args[0].fake_mode.in_kernel_invocation
            return torch.device("meta") if within else args[0].fake_device
        return self._answer(func, args, kwargs or {})

    def _answer(self, func: OpOverload, args: tuple, kwargs: dict) -> object:
        """Answer any other call."""
        raise NotImplementedError


def _tensors(*values: object) -> list[torch.Tensor]:
    """Tensors among arguments and in their tuples and lists; torch's tree_iter takes far longer."""
    collected: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            collected.append(value)
        elif isinstance(value, tuple | list):
            collected += _tensors(*value)
    return collected


class RealIntegers(_FastDeviceMode):
    """Compute operations on integers alone with real numbers; the others stay fake.

    Models call `.tolist()` on the sizes of pictures, which fake tensors cannot answer.
    """

    def _answer(self, func: OpOverload, args: tuple, kwargs: dict) -> object:
        if func.namespace == "prim":  # what a tensor is asked, most of all calls
            return func(*args, **kwargs)
        # Nearly all calls have a fake tensor among their arguments themselves.
        tensors: Sequence[Any] = args
        if not any(isinstance(value, FakeTensor) for value in args):
            tensors = _tensors(args, *kwargs.values())
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            if func.overloadpacket in _INDEXED:
                args = (args[0], _positions(args[1]), *args[2:])
            return func(*args, **kwargs)
        if any(tensor.is_floating_point() for tensor in tensors):
            return func(*args, **kwargs)
        if not tensors and not _makes_integers(func, args, kwargs):
            return func(*args, **kwargs)
        with unset_fake_temporarily():
            out = func(*args, **kwargs)
        fake: Any = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)

        def floats_as_fake(value: object) -> object:
            floating = isinstance(value, torch.Tensor) and value.is_floating_point()
            return fake.from_tensor(value) if floating else value

        return tree_map(floats_as_fake, out)


def _makes_integers(func: OpOverload, args: tuple, kwargs: dict) -> bool:
    """Whether a factory of tensors (`arange`, `zeros`) makes integers."""
    dtype = kwargs.get("dtype")
    if dtype is not None:
        return not dtype.is_floating_point
    numbers = [value for value in tree_iter(args) if isinstance(value, int | float | bool)]
    by_numbers = func.overloadpacket in (aten.arange, aten.full, aten.scalar_tensor)
    return by_numbers and not any(isinstance(number, float) for number in numbers)


def _positions(indices: Iterable[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Indices with real masks as the positions of their hits, whose number is then known."""
    positions: list[torch.Tensor | None] = []
    for index in indices:
        real = not isinstance(index, FakeTensor)
        if isinstance(index, torch.Tensor) and real and index.dtype == torch.bool:
            with unset_fake_temporarily():
                positions += index.nonzero(as_tuple=True)
        else:
            positions.append(index)
    return positions


@dataclass
class _Held:
    """Bytes of a storage, and what they hold."""

    size: int
    kind: str


class Meter(_FastDeviceMode):
    """Bytes of storages alive, by what they hold, and the cost of every kernel."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.alive: Counter[str] = Counter()
        self.at_peak: Counter[str] = Counter()
        self.total = self.peak = 0
        self.kernels: list[tuple[float, float]] = []
        # {reference to a storage: its bytes and kind}; a WeakKeyDictionary with a finalizer a
        # storage takes several times as long.
        self.known: dict[weakref.ref, _Held] = {}

    def add(self, tensor: torch.Tensor, kind: str) -> None:
        """Count a tensor's storage until it is freed, or file a known one under another kind."""
        storage = tensor.untyped_storage()
        entry = self.known.get(weakref.ref(storage))
        if entry is None:
            entry = _Held(-(-storage.nbytes() // _STEP) * _STEP, kind)
            self.known[weakref.ref(storage, self._freed)] = entry
            self.total += entry.size
        else:
            self.alive[entry.kind] -= entry.size
            entry.kind = kind
        self.alive[kind] += entry.size

    def _freed(self, storage: weakref.ref) -> None:
        entry = self.known.pop(storage)
        self.alive[entry.kind] -= entry.size
        self.total -= entry.size

    def reset(self) -> None:
        """Begin a step: the peak is what is alive now."""
        self.peak, self.at_peak, self.kernels = self.total, Counter(self.alive), []

    def _answer(self, func: OpOverload, args: tuple, kwargs: dict) -> object:
        out = func(*args, **kwargs)
        packet = func.overloadpacket
        if func.namespace == "prim" or packet in _MOVES_NOTHING:
            return out
        outputs = _tensors(out)
        for tensor in outputs:
            if weakref.ref(tensor.untyped_storage()) not in self.known:
                logits = tensor.shape[-1:] == (self.vocabulary,)
                self.add(tensor, "logits" if logits else "activations")
        within = workspace(packet, args)
        if self.total + within > self.peak:
            self.peak, self.at_peak = self.total + within, Counter(self.alive)
            self.at_peak["activations"] += within
        if packet not in _ALLOCATES:
            formula = flop_registry.get(packet)
            operations = float(formula(*args, **kwargs, out_val=out)) if formula else 0.0
            moved = sum(map(_bytes_moved, _tensors(args, *kwargs.values()) + outputs))
            self.kernels.append((operations, float(moved)))
        return out


def _bytes_moved(tensor: torch.Tensor) -> int:
    """Bytes of a tensor that a kernel reads or writes; expanded dimensions count once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride()):
        count *= size if stride else 1
    return count * tensor.element_size()


def workspace(packet: object, args: tuple) -> int:
    """Bytes that a kernel holds while it runs.

    bitsandbytes' product for more than 1,536 rows expands the whole matrix to 16 bits first.
    """
    if getattr(packet, "__name__", "") != "gemm_4bit":
        return 0
    inputs, shape = args[0], args[2]
    if inputs.numel() // inputs.shape[-1] <= 1536:
        return 0
    return shape[0] * shape[1] * inputs.element_size()


def register_costs() -> None:
    """Tell torch's registry the operations of kernels that it does not know.

    The CPU's fused attention stands for CUDA's: same shapes, same products.
    """
    forward = aten._scaled_dot_product_flash_attention_for_cpu
    backward = aten._scaled_dot_product_flash_attention_for_cpu_backward
    registry = cast("dict[Any, Callable]", flop_registry)
    registry[forward] = lambda q, k, v, *args, out_val=None, **kwargs: sdpa_flop_count(
        q.shape, k.shape, v.shape
    )
    registry[backward] = lambda g, q, k, v, *args, out_val=None, **kwargs: sdpa_backward_flop_count(
        g.shape, q.shape, k.shape, v.shape
    )
    with contextlib.suppress(ImportError, AttributeError):
        import bitsandbytes  # noqa: F401

        registry[torch.ops.bitsandbytes.gemm_4bit] = (
            lambda a, b, shape, *args, out_val=None, **kwargs: 2 * a.numel() * shape[0]
        )
