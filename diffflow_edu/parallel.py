"""Several processes that train one model, and the precision they train in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from diffflow_edu.schedules import shortly

if TYPE_CHECKING:
    from accelerate import Accelerator


class Processes:
    """The processes that train together: one by itself, or those of an `Accelerator`.

    No wrapper such as DistributedDataParallel: it overlaps communication with the backward pass,
    and the adjoint hands over all gradients at once, at its end.
    """

    def __init__(self, accelerator: Accelerator | None) -> None:
        self.accelerator = accelerator
        if accelerator is not None and not hasattr(accelerator, "mixed_precision"):
            got = type(accelerator).__name__
            raise ValueError(f"accelerator must be accelerate's Accelerator, got {got}")
        if accelerator is not None and accelerator.mixed_precision not in ("no", "bf16"):
            raise ValueError(
                "accelerator must have mixed_precision 'no' or 'bf16' (16-bit floats of a small "
                f"range would need their loss scaled), got {shortly(accelerator.mixed_precision)}"
            )
        self.count = 1 if accelerator is None else accelerator.num_processes
        self.rank = 0 if accelerator is None else accelerator.process_index
        self.precision = "no" if accelerator is None else accelerator.mixed_precision

    def prepare(self, model: nn.Module) -> None:
        """Move the model to this process's device, with the weights of the first process."""
        if self.accelerator is None:
            return
        model.to(self.accelerator.device)
        self.share(model)

    def share(self, model: nn.Module) -> None:
        """Give every process the weights and buffers of the first."""
        if self.count > 1:
            for tensor in model.state_dict().values():
                torch.distributed.broadcast(tensor, 0)

    def autocast(self) -> AbstractContextManager:
        """The accelerator's precision."""
        return nullcontext() if self.accelerator is None else self.accelerator.autocast()

    def average(self, parameters: list[Tensor], value: float) -> float:
        """Average the gradients over the processes, in place, and a number."""
        if self.count == 1:
            return value
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([*(g.flatten() for g in grads), grads[0].new_tensor([value])])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        sizes = [g.numel() for g in grads]
        for grad, mean in zip(grads, flat[:-1].split(sizes), strict=True):
            grad.copy_(mean.view_as(grad))
        return float(flat[-1])

    def any(self, here: bool) -> bool:
        """Whether it is so in any process: all must agree on when to end."""
        if self.count == 1:
            return here
        flag = torch.tensor([float(here)], device=self.accelerator.device)
        torch.distributed.all_reduce(flag)
        return bool(flag.item() > 0)

    def gather(self, tensor: Tensor) -> Tensor:
        """(count, *shape) on the CPU: that of every process."""
        if self.count == 1:
            return tensor[None]
        mine = tensor.to(self.accelerator.device)
        parts = [torch.empty_like(mine) for _ in range(self.count)]
        torch.distributed.all_gather(parts, mine)
        return torch.stack(parts).cpu()

    def wait(self) -> None:
        """For one another."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()
