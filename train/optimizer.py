"""The optimisers: AdamW, or Muon for the matrices inside transformer blocks and AdamW for all other parameters."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from latte.models.attention import AxialAttention, CrossAttention
from latte.models.block import AdaLN
from latte.train.base_config import TrainConfig
from latte.train.parallel import outermost_blocks

AUXILIARY_RATE = 2.0  # of an auxiliary network, relative to the student's, whose predictions it follows
FOLLOWING = (0.5, 0.999)  # AdamW's betas where one network follows another: little momentum
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic, as in torch.optim.Muon
ITERATIONS = 5  # after which the singular values are between 0.7 and 1.2
LEAST_NORM = 1e-7  # a matrix of a smaller norm is not scaled up further
ADAMW_RMS = 0.2  # typical of AdamW's updates: Liu et al. 2025, arXiv 2502.16982, section 2.2


class Rows(NamedTuple):
    """The matrices that are fused in a weight, whose rows are ordered (head, part, row within the head).

    Attributes:
        heads: How many heads share each matrix.
        parts: How many matrices there are.
    """

    heads: int = 1
    parts: int = 1


def make_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.AdamW:
    """The optimiser of a network's parameters, chosen by config.optimizer."""
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": True}
    two = config.distillation == "moments"
    groups = moment_groups(config, network) if two else [{"params": list(network.parameters())}]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, **options)
    matrices, on_cpu = block_matrices(network, config.muon_per_head), next(network.parameters()).device.type == "cpu"
    products = torch.float32 if on_cpu and config.precision != "bf16" else torch.bfloat16
    return Muon(groups, matrices, config.muon_momentum, products, **options)


def moment_groups(config: TrainConfig, network: nn.Module) -> list[dict[str, Any]]:
    """The parameters of a student, which begins to learn after config.warmup steps, and those of its auxiliary network.

    latte.train.step reads "rate", a factor of the learning rate, and "begins", the first step at which it is not 0.
    """
    theirs = list(network.get_submodule("auxiliary").parameters())
    own = [parameter for name, parameter in network.named_parameters() if not name.startswith("auxiliary.")]
    shared = {"betas": FOLLOWING}
    return [
        {"params": own, "rate": 1.0, "begins": config.warmup, **shared},
        {"params": theirs, "rate": AUXILIARY_RATE, "begins": 0, **shared},
    ]


def block_matrices(network: nn.Module, per_head: bool) -> dict[nn.Parameter, Rows]:
    """The weights of the linear layers in the network's transformer blocks, and what is fused in each.

    Queries, keys and values are separate matrices, of all heads together or per head, and so is each shift, scale and
    gate that adaLN projects to.
    """
    modules = [module for block in outermost_blocks(network) for module in block.modules()]
    by_head = lambda heads, parts: Rows(parts=heads * parts) if per_head else Rows(heads, parts)
    matrices = {module.weight: Rows() for module in modules if isinstance(module, nn.Linear)}
    for module in modules:
        if isinstance(module, AxialAttention):
            matrices[module.qkv.weight] = by_head(module.heads, 3)
        elif isinstance(module, CrossAttention):
            matrices |= {module.q.weight: by_head(module.heads, 1), module.kv.weight: by_head(module.heads, 2)}
        elif isinstance(module, AdaLN):
            matrices[module.linear.weight] = Rows(parts=module.norms * module.parts)
    return matrices


class Muon(torch.optim.AdamW):
    """Muon for matrices (Jordan et al. 2024, kellerjordan.github.io/posts/muon), AdamW for the other parameters.

    The momentum of each matrix is orthogonalised before it is added to the weights. A weight in which several matrices
    are fused is first split into them (CMuon, arXiv 2608.02502), since otherwise one direction would dominate them all.
    The update of an (m, n) matrix is scaled by 0.2 sqrt(max(m, n)), so that it is as large as AdamW's, and one learning
    rate and one weight decay fit both (Liu et al. 2025, arXiv 2502.16982, eq. 4).

    Several processes share the work: each orthogonalises some of the updates, and sends them to the others. With
    sharded weights, each process gathers the momentum of one weight after another, and computes the whole update.

    Args:
        groups: The parameters to update, in groups as for AdamW. Each becomes two, the second one of matrices.
        matrices: The weights that Muon updates, and the matrices that are fused in each.
        momentum: The decay of the Nesterov momentum.
        products: The type in which matrices are orthogonalised. bfloat16 is accurate enough, and faster where the
            hardware supports it.
        options: Options of AdamW.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        matrices: dict[nn.Parameter, Rows],
        momentum: float,
        products: torch.dtype = torch.float32,
        **options: Any,
    ):
        split = []
        for group in groups:
            for of_matrices in (False, True):
                chosen = [parameter for parameter in group["params"] if (parameter in matrices) == of_matrices]
                split.append({**group, "params": chosen})
        super().__init__(split, **options)
        self.matrices, self.momentum, self.products = matrices, momentum, products

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all parameters that have a gradient. The gradients of the matrices are None afterwards."""
        groups = {parameter: group for group in self.param_groups for parameter in group["params"]}
        for matrix, direction in self.directions():
            group = groups[matrix]
            matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
            matrix.grad = None  # AdamW skips parameters without a gradient
        super().step(closure)

    def update(self, matrix: nn.Parameter) -> Tensor:
        """Add the gradient of a weight to its momentum, and return the update, not yet orthogonalised."""
        state, gradient = self.state[matrix], matrix.grad
        if not state:
            state["step"] = torch.zeros((), device=matrix.device)  # AdamW expects it in every state that is loaded
            state["momentum_buffer"] = torch.zeros_like(matrix)
        state["step"] += 1
        return gradient.lerp(state["momentum_buffer"].lerp_(gradient, 1 - self.momentum), self.momentum)

    def directions(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Yield each matrix that has a gradient, and what to subtract from it per unit of learning rate."""
        rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        learning = [matrix for matrix in self.matrices if matrix.grad is not None]
        replicated = sorted((m for m in learning if not isinstance(m, DTensor)), key=lambda m: -m.numel())
        for first in range(0, len(replicated), size):  # one for each process, all of about the same size
            matrices = replicated[first : first + size]
            updates = [self.update(matrix) for matrix in matrices]
            if rank < len(matrices):
                updates[rank] = orthogonal(updates[rank], self.matrices[matrices[rank]], self.products).contiguous()
            for source, update in enumerate(updates) if size > 1 else ():
                dist.broadcast(update, source)
            yield from zip(matrices, updates)
        for matrix in (m for m in learning if isinstance(m, DTensor)):
            update = self.update(matrix)
            whole = orthogonal(update.full_tensor(), self.matrices[matrix], self.products)
            yield matrix, distribute_tensor(whole, update.device_mesh, update.placements, src_data_rank=None)


def orthogonal(update: Tensor, rows: Rows, products: torch.dtype = torch.float32) -> Tensor:
    """Orthogonalise each matrix in a fused update (rows, columns), scaled to AdamW's root mean square."""
    matrices = rearrange(update, "(h n e) d -> n (h e) d", h=rows.heads, n=rows.parts)
    scaled = ADAMW_RMS * max(matrices.shape[1:]) ** 0.5 * newton_schulz(matrices, products)
    return rearrange(scaled, "n (h e) d -> (h n e) d", h=rows.heads)


def newton_schulz(matrices: Tensor, products: torch.dtype = torch.float32) -> Tensor:
    """Move all singular values of matrices (n, rows, columns) close to 1, and keep the singular vectors.

    The products are computed in the given type.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(products)
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=LEAST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)
