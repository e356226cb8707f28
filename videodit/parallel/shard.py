"""A built model made ready to train on a mesh, from outside: its files know nothing of it.

    context parallelism -> activation checkpointing -> compile -> FSDP2 (Zhao et al. 2023, arXiv:2304.11277)

Denoisers are sharded, block by block. What else trains, a VAE or a text encoder, is small: every process holds it
whole, and `sum_gradients` adds up what each has found.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from videodit.accel.compiling import compile_blocks, lacking_compiler
from videodit.errors import InputError
from videodit.models.interfaces import Denoiser
from videodit.parallel.mesh import Mesh
from videodit.parallel.sequence import share_tokens

RECOMPUTE = ("nothing", "cheap", "blocks")
# What `cheap` keeps from the forward pass: the products, which cost most to make again.
KEPT = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
)


def parallelize(
    model: nn.Module, mesh: Mesh, *, recompute: str, compile: bool, offload: bool, precision: torch.dtype
) -> None:
    """Change a model in place.

    recompute: what the backward pass computes again instead of keeping it: "nothing"; what is "cheap", that is all but
        matrix products and attention; or whole "blocks".
    compile: torch.compile for each block.
    offload: weights, gradients and optimizer stay in the CPU's memory between uses; only where weights are sharded.
    precision: of the blocks' weights as they are gathered. What a network names `KEEP_FP32`, and all gradients on their
        way between processes, stay in float32.
    """
    if offload and mesh.shard * mesh.context == 1:
        raise InputError("parallel.offload=true needs weights that are sharded: parallel=fsdp on several processes")
    if compile and (lacking := lacking_compiler(mesh.device)):
        raise InputError(f"parallel.compile=true: torch.compile needs a {lacking}, which this machine lacks")
    if mesh.context > 1:
        for network in networks(model):
            share_tokens(network, mesh)
    forget(model, recompute)
    for network in networks(model):
        if compile:
            for stack in network.stacks().values():
                compile_blocks(stack)
        if mesh.ranks > 1:
            _shard(network, mesh, precision, offload=offload)


def use_kernel(model: nn.Module, kernel: str, device: torch.device, precision: torch.dtype) -> str:
    """Have a model's denoisers compute attention by a kernel, and say what that comes to, in a line or nothing.

    InputError where it cannot serve them.
    """
    said = ""
    for network in networks(model):
        use = network.attention(device, precision, grad=True)
        use.check(kernel)
        network.kernel, said = kernel, use.told(kernel)
    return said


def forget(model: nn.Module, recompute: str) -> None:
    """Have the blocks of a model's denoisers keep less for the backward pass: see `parallelize`."""
    if recompute not in RECOMPUTE:
        raise InputError(f"parallel.recompute={recompute}: it is one of {', '.join(RECOMPUTE)}")
    extra = {"context_fn": _keep_products} if recompute == "cheap" else {}
    for network in networks(model) if recompute != "nothing" else ():
        for stack in network.stacks().values():
            for number, block in enumerate(stack):
                stack[number] = checkpoint_wrapper(block, preserve_rng_state=False, **extra)


def networks(model: nn.Module) -> list[Denoiser]:
    """Those of a model that are sharded. Text encoders that train are small, and run as often as prompts ask for."""
    return [module for module in model.modules() if isinstance(module, Denoiser)]


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. Every rank must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(part: Tensor, tensor: Tensor) -> Tensor:
    """This process's part of something that is sharded as `tensor` is."""
    if not isinstance(tensor, DTensor):
        return part
    # Not `from_local`, which would bring what is offloaded to the GPU: another tensor than the one to save or fill.
    return DTensor(part, tensor._spec, requires_grad=False)


def named(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by their names in the state dict, which wrappers leave as they are; a shared one has its first."""
    found = {id(value): name for name, value in reversed(module.state_dict(keep_vars=True).items())}
    return {found[id(value)]: value for value in module.parameters()}


@torch.no_grad()
def held(parameter: nn.Parameter) -> nn.Parameter:
    """What this process holds of a parameter, for an optimizer to change in place."""
    return nn.Parameter(parameter.to_local()) if isinstance(parameter, DTensor) else parameter


@torch.no_grad()
def gathered(tensors: Mapping[str, Tensor], mesh: Mesh) -> dict[str, Tensor]:
    """Tensors whole and on the CPU, on the main process; the others help, and get none. One at a time on its way."""
    found = {}
    for name, tensor in tensors.items():
        value = whole(tensor)
        if mesh.main:
            found[name] = value.cpu()
    return found


def sum_gradients(parameters: Iterable[nn.Parameter], mesh: Mesh) -> None:
    """Add up the gradients of what every process holds whole; FSDP has done so for the rest."""
    mine = [p for p in parameters if not isinstance(p, DTensor)]
    if mesh.ranks == 1 or not mine:
        return
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in mine]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    for parameter, grad, part in zip(mine, grads, flat.split([g.numel() for g in grads]), strict=True):
        parameter.grad = part.view_as(grad)


def square_norms(parameters: Sequence[nn.Parameter], tensors: Sequence[Tensor | None], mesh: Mesh) -> Tensor:
    """The squared norm of something like each parameter, of which `tensors` are this process's parts: (n,) fp64."""
    nothing = torch.zeros((), device=mesh.device)
    norms = torch._foreach_norm([nothing if tensor is None else tensor for tensor in tensors])
    squares = torch.empty(len(norms), dtype=torch.float64)
    for device in {norm.device for norm in norms}:  # one wait for each, not one for each parameter
        places = [place for place, norm in enumerate(norms) if norm.device == device]
        squares[places] = torch.stack([norms[place] for place in places]).double().square().cpu()
    if mesh.ranks > 1:
        copies = [mesh.replicate if isinstance(p, DTensor) else mesh.ranks for p in parameters]
        squares /= torch.tensor(copies, dtype=torch.float64)
        dist.all_reduce(squares)
    return squares


def _keep_products() -> tuple:
    def policy(_: object, op: object, *args: object, **kwargs: object) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if op in KEPT else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


def _shard(network: Denoiser, mesh: Mesh, precision: torch.dtype, *, offload: bool) -> None:
    warnings.filterwarnings("ignore", message=".*returned a view tensor")  # which nothing here changes in place
    shared = {"mesh": mesh.weights(), "offload_policy": CPUOffloadPolicy() if offload else OffloadPolicy()}
    full = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    mixed = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in network.blocks_of_all():
        for name, part in block.named_modules():
            names = [f"{name}.{own}" for own, _ in part.named_parameters(recurse=False)]
            if precision != torch.float32 and any(known in one for one in names for known in network.KEEP_FP32):
                fully_shard(part, **shared, mp_policy=full)
        fully_shard(block, **shared, mp_policy=mixed)
    fully_shard(network, **shared, mp_policy=full)
    network.steady = False
    for part in network.modules():
        if hasattr(part, "set_gradient_divide_factor"):
            part.set_gradient_divide_factor(1.0)  # the loss is a step's, so its parts' gradients are summed
            part.set_force_sum_reduction_for_comms(True)  # gloo knows no other
