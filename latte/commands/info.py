"""`latte info`: what each variant and size costs, counted on the network itself, beside the paper's table."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from latte.commands.parser import Parser
from latte.models.latte import SIZES, VARIANTS, Latte, LatteConfig

# Latte (arXiv 2401.03048), XL/2: parameters in millions, "FLOPs" in G
PAPER = {1: (673.68, 5572.69), 2: (673.68, 5572.69), 3: (676.33, 6153.15), 4: (676.44, 1545.15)}

NOTES = """\
GMACs: multiply-accumulates of one forward, one clip of 16 x 32 x 32 latents, attention products included.
The paper's table differs in three ways. It counts a batch of three clips, leaves attention products out (linear layers
and convolutions, and two operations per normalised element), and evaluates variant 3's and 4's modulation once a frame
and once a patch; here it is evaluated once a clip. Its figure for variant 4 belongs to patch size 4, a quarter of the
tokens: at the same patch size variant 4 costs what variant 3 does. Its parameters leave the position tables out, which
here are computed and not stored, and for variants 3 and 4 the patch embedding (variant 4's at patch size 4)."""


def measure(config: LatteConfig) -> tuple[int, int, int]:
    """(parameters, multiply-accumulates of a forward on one clip, those without attention's own products)."""
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
    return sum(p.numel() for p in model.parameters()), total // 2, (total - attention) // 2


def main(argv: list[str]) -> None:
    """Print the table; every number is counted on a model built without memory."""
    parser = Parser(prog="latte info", description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="which sizes (default: all)")
    parser.add_argument(
        "--patch-size", type=int, default=2, choices=(2, 4, 8), help="latent pixels on a patch's side (default: 2)"
    )
    parser.add_argument(
        "--variants", nargs="+", type=int, choices=VARIANTS, default=list(VARIANTS), help="default: all"
    )
    parser.add_argument("--num-classes", type=int, default=0, help="0: unconditional (default)")
    args = parser.parse_args(argv)
    print(f"{'model':12} {'variant':>7} {'depth':>5} {'params M':>9}", end=" ")
    print(f"{'GMACs':>9} {'w/o attention':>14} {'paper M':>8} {'paper G':>8}")
    for size in args.sizes:
        for variant in args.variants:
            config = LatteConfig.from_name(f"Latte-{size}/{args.patch_size}", variant, num_classes=args.num_classes)
            parameters, macs, linear = measure(config)
            paper = PAPER[variant] if (size, args.patch_size) == ("XL", 2) else ("", "")
            row = f"{f'Latte-{size}/{args.patch_size}':12} {variant:>7} {config.depth:>5} {parameters / 1e6:>9.2f}"
            print(f"{row} {macs / 1e9:>9.2f} {linear / 1e9:>14.2f} {paper[0]:>8} {paper[1]:>8}")
    print(NOTES)
