"""`latte info`: parameters and FLOPs of every variant and size, counted on the network, beside the paper's table."""

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from latte.commands.parser import Parser
from latte.models.latte import SIZES, VARIANTS, Latte, LatteConfig

# Latte (arXiv 2401.03048), Latte-XL/2 by variant: parameters in millions, and what it calls FLOPs, in G
PAPER = {1: (673.68, 5572.69), 2: (673.68, 5572.69), 3: (676.33, 6153.15), 4: (676.44, 1545.15)}

NOTES = """\
GMACs: multiply-accumulates of one forward pass on one clip of 16 x 32 x 32 latents, with the matrix products inside
attention. "w/o attention" leaves those products out.
The paper counts differently in three ways. It counts a batch of three clips; it leaves out the products inside
attention, and counts only linear layers, convolutions and two operations per normalised element; and it evaluates the
modulation of variants 3 and 4 once per frame and once per patch, where here it is evaluated once per clip. Its FLOPs of
variant 4 are those of patch size 4, with a quarter of the tokens: at equal patch size, variants 3 and 4 cost the same.
Its parameters exclude the position tables, which here are computed and not stored, and for variants 3 and 4 also the
patch embedding (for variant 4, that of patch size 4)."""


class Cost(NamedTuple):
    """What a network costs."""

    parameters: int
    macs: int  # multiply-accumulates of one forward pass on one clip
    macs_without_attention: int  # without the matrix products of queries, keys and values


def count_cost(config: LatteConfig) -> Cost:
    """Build the network without allocating memory, and count its parameters and the operations of a forward pass."""
    with torch.device("meta"):
        model = Latte(config).eval()
        x = torch.zeros(1, config.num_frames, config.in_channels, config.input_size, config.input_size)
        t = torch.zeros(1, dtype=torch.long)
        y = torch.zeros(1, dtype=torch.long) if config.num_classes else None
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x, t, y)
    counts = counter.get_flop_counts()["Global"]
    attention = sum(flops for op, flops in counts.items() if "attention" in str(op) or "bmm" in str(op))
    total = sum(counts.values())
    return Cost(sum(p.numel() for p in model.parameters()), total // 2, (total - attention) // 2)


def main(argv: list[str]) -> None:
    """Print the table."""
    parser = Parser(prog="latte info", description=__doc__)
    add = parser.add_argument
    add("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="model sizes (default: all)")
    add("--patch-size", type=int, default=2, choices=(2, 4, 8), help="side of a patch, in latent pixels (default: 2)")
    variants = list(VARIANTS)
    add("--variants", nargs="+", type=int, choices=VARIANTS, default=variants, help="model variants (default: all)")
    add("--num-classes", type=int, default=0, help="number of classes (default: 0, unconditional)")
    args = parser.parse_args(argv)
    print(f"{'model':12} {'variant':>7} {'depth':>5} {'params M':>9}", end=" ")
    print(f"{'GMACs':>9} {'w/o attention':>14} {'paper M':>8} {'paper G':>8}")
    for size in args.sizes:
        for variant in args.variants:
            config = LatteConfig.from_name(f"Latte-{size}/{args.patch_size}", variant, num_classes=args.num_classes)
            parameters, macs, linear = count_cost(config)
            paper = PAPER[variant] if (size, args.patch_size) == ("XL", 2) else ("", "")
            row = f"{f'Latte-{size}/{args.patch_size}':12} {variant:>7} {config.depth:>5} {parameters / 1e6:>9.2f}"
            print(f"{row} {macs / 1e9:>9.2f} {linear / 1e9:>14.2f} {paper[0]:>8} {paper[1]:>8}")
    print(NOTES)
