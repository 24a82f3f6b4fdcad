"""A device that is not there: its tensors say they live elsewhere, their numbers are on the CPU.

It refuses what CUDA refuses, in the same words: operands on two devices (a CPU number, 0-d, may
join in), indices on the device for a tensor on the CPU, a generator of another device, `.numpy()`.
Its random numbers are its own, so whoever seeds or restores the CPU's alone is found out. Without
float64 it is an Apple GPU, which does not even write float64 into the CPU's memory: first the CPU,
then the dtype. Registered once a process and for good, hence in a process of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from traceback import print_exception, print_stack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

aten = torch.ops.aten
NAME = "pretended"
DOUBLES = {torch.float64, torch.complex128}
COPIES = {aten._to_copy, aten.copy_, aten.copy}
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
NO_NUMBERS = {aten.cat, aten.stack, aten.searchsorted, aten.bucketize, aten.mm, aten.mv, aten.dot}

has_float64 = True
_TorchGenerator = torch.Generator
_random = _TorchGenerator()


class Module(_DummyBackendModule):
    """What torch asks of a device: torch.pretended."""

    def manual_seed_all(self, seed: int) -> None:
        _random.manual_seed(seed)

    manual_seed = manual_seed_all

    def get_rng_state(self, device: Any = None) -> Tensor:
        return _random.get_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        _random.set_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def synchronize(self, device: Any = None) -> None:
        pass


_setup_privateuseone_for_python_backend(NAME, backend_module=Module())
DEVICE = torch.device(NAME, 0)


def _refusal(error: Exception) -> Exception:
    """The error to raise, printed where none will be seen.

    In backward it ends the process: torch's guard of a device made in Python cannot work beside a
    pending exception.
    """
    if torch._C._current_graph_task_id() != -1:
        print_exception(error, file=sys.__stderr__)
        print_stack(file=sys.__stderr__)
    return error


class Pretended(Tensor):
    """A tensor on the device; `numbers` is the tensor on the CPU behind it."""

    @staticmethod
    def __new__(cls, numbers: Tensor) -> Pretended:
        if numbers.dtype in DOUBLES and not has_float64:
            raise _refusal(TypeError(f"Cannot make {numbers.dtype} on {DEVICE}: it has none"))
        self = Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=DEVICE,
        )
        self.numbers = numbers
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN206
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"{self.numbers!r} on {DEVICE}"

    def __format__(self, form: str) -> str:
        return format(self.detach().cpu(), form)

    # Makes Module.to exchange what a parameter is, as it does where storage can be exchanged.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["numbers"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict, meta: None, size: Any, stride: Any) -> Pretended:
        return Pretended(inner["numbers"])

    def __reduce_ex__(self, protocol: int) -> Any:
        """A file holds the numbers, as torch.load(…, map_location="cpu") would give them."""
        plain = self.detach().cpu()
        plain = nn.Parameter(plain, self.requires_grad) if isinstance(self, nn.Parameter) else plain
        return plain.__reduce_ex__(protocol)


@cache
def _aliases(func: Any) -> bool:
    """Whether an operation returns what it was given, or a view of it."""
    return any(value.alias_info is not None for value in func._schema.returns)


def _tensors(value: Any) -> list[Tensor]:
    """Those in an operation's arguments, lists and tuples at most; quicker than pytree."""
    if isinstance(value, (list, tuple)):
        return [t for each in value for t in _tensors(each)]
    return [value] if isinstance(value, Tensor) else []


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same with every tensor changed."""
    if isinstance(value, (list, tuple)):
        return type(value)(_changed(each, change) for each in value)
    return change(value) if isinstance(value, Tensor) else value


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    tensors = [*_tensors(args), *_tensors([*kwargs.values()])]
    here = [isinstance(t, Pretended) for t in tensors]
    target = kwargs.get("device")
    on_device = any(here) if target is None else torch.device(target).type == NAME
    if any(here) and not all(here):
        _refuse_mixed(func, args, tensors)
    if func.overloadpacket in COPIES and any(here) and not has_float64:
        to = kwargs.get("dtype") or tensors[0].dtype
        if to in DOUBLES and tensors[-1].dtype != to:
            raise _refusal(TypeError(f"Cannot convert from {DEVICE} to {to}: it has none"))
    if not any(here) and not on_device:
        return func(*args, **kwargs)
    inner_args = _changed(args, lambda t: getattr(t, "numbers", t))
    inner = {k: _changed(value, lambda t: getattr(t, "numbers", t)) for k, value in kwargs.items()}
    if on_device and target is not None:
        inner["device"] = "cpu"
    inner.pop("pin_memory", None)
    if torch.Tag.nondeterministic_seeded in func.tags and kwargs.get("generator") is None:
        with _drawing_here():
            out = func(*inner_args, **inner)
    else:
        out = func(*inner_args, **inner)
    if func.overloadpacket is aten.copy_ and not isinstance(args[0], Pretended):
        return args[0]
    if on_device:
        if func.overloadpacket is aten._to_copy and out is inner_args[0]:
            out = out.clone()
        out = _changed(out, Pretended)
    aliased = any(here) and _aliases(func)
    return return_and_correct_aliasing(func, args, kwargs, out) if aliased else out


def _refuse_mixed(func: Any, args: tuple, tensors: list[Tensor]) -> None:
    kind = func.overloadpacket
    if kind in COPIES:
        return
    strangers = [t for t in tensors if not isinstance(t, Pretended)]
    if kind in INDEXED and isinstance(args[0], Pretended):
        indices = {id(t) for t in _tensors(args[1])}
        strangers = [t for t in strangers if id(t) not in indices]  # they may stay on the CPU
    changed = func._schema.is_mutable and not isinstance(tensors[0], Pretended)
    if changed or any(t.ndim > 0 or kind in NO_NUMBERS | INDEXED for t in strangers):
        raise _refusal(
            RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{NAME}:0 and cpu! ({func})"
            )
        )


# torch itself makes tensors below the reach of a mode, in torch.tensor and in indexing.
_library = torch.library.Library("aten", "IMPL")
for _name in ("empty.memory_format", "empty_strided"):
    _make = getattr(aten, _name.split(".")[0])
    _library.impl(
        _name,
        lambda *args, _make=_make, device=None, pin_memory=None, **more: Pretended(
            _make(*args, device="cpu", **more)
        ),
        "PrivateUse1",
    )


def _copied(source: Tensor, to: Tensor, non_blocking: bool = False) -> Tensor:
    numbers = source.numbers if isinstance(source, Pretended) else source
    (to.numbers if isinstance(to, Pretended) else to).copy_(numbers)
    return to


_library.impl("_copy_from", _copied, "PrivateUse1")


@contextmanager
def _drawing_here() -> Iterator[None]:
    """Draws come from the device's random numbers, not from the CPU's."""
    cpu = torch.get_rng_state()
    torch.set_rng_state(_random.get_state())
    try:
        yield
    finally:
        _random.set_state(torch.get_rng_state())
        torch.set_rng_state(cpu)


class Generator(_TorchGenerator):
    """torch.Generator, for this device too: torch has no way to make one in Python."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        self = super().__new__(cls)
        self.place = torch.device(device)
        return self

    @property
    def device(self) -> torch.device:
        return self.place

    def manual_seed(self, seed: int) -> Generator:
        super().manual_seed(seed)
        return self


class _Operations(TorchDispatchMode):
    """Makes tensors on the device, too."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        return _run(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Sees what never reaches an operation: generators, and `.data =`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if generator is not None:
            tensor = next((a for a in args if isinstance(a, Tensor)), None)
            place = kwargs.get("device") or (tensor.device if tensor is not None else "cpu")
            if torch.device(place).type != generator.device.type:
                raise RuntimeError(
                    f"Expected a '{torch.device(place).type}' device type for generator but found "
                    f"'{generator.device.type}'"
                )
        if func == Tensor.data.__set__ and any(isinstance(a, Pretended) for a in args):
            self_, value = args
            new = value.detach()
            new = nn.Parameter(new) if isinstance(self_, nn.Parameter) else new
            torch.utils.swap_tensors(self_, new.requires_grad_(self_.requires_grad))
            return None
        return func(*args, **kwargs)


@contextmanager
def pretended_device(float64: bool = True) -> Iterator[torch.device]:
    """The device, there inside the block."""
    global has_float64
    before, has_float64, torch.Generator = has_float64, float64, Generator
    try:
        with ExitStack() as stack:
            stack.enter_context(_Operations())
            stack.enter_context(_Calls())
            # Backward in this thread: torch's own for a device is not made for one in Python.
            stack.enter_context(torch.autograd.set_multithreading_enabled(False))
            yield DEVICE
    finally:
        has_float64, torch.Generator = before, _TorchGenerator
