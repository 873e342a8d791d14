"""`latte info`: what a path holds; or parameters and FLOPs of every variant and size, next to those of the paper."""

from argparse import Namespace
from typing import NamedTuple

from latte.models.latte_config import VARIANTS, LatteConfig

# Latte (arXiv 2401.03048), Latte-XL/2 by variant: parameters in millions, and its FLOPs in G, as it counts them
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
    """The cost of a network."""

    parameters: int
    macs: int  # multiply-accumulates of one forward pass on one clip
    macs_without_attention: int  # without the matrix products of queries, keys and values


def count_cost(config: LatteConfig) -> Cost:
    """Count the parameters and the operations of a forward pass of a Latte with adaLN and a tubelet of 1.

    A formula takes no time, and needs no PyTorch; a test compares it with counts on the network.
    """
    d, p, kinds = config.hidden_size, config.patch_size, VARIANTS[config.variant](config.depth)
    frames, patches = config.num_frames, (config.input_size // p) ** 2
    tokens, hidden = frames * patches, int(config.mlp_ratio * d)
    blocks, spatial, temporal = len(kinds), *(sum(axis in kind or kind == "|" for kind in kinds) for axis in "st")
    per_token = [  # linear layers that all tokens go through: count, inputs, outputs
        (spatial + temporal, d, 3 * d),
        (spatial + temporal, d, d),
        (blocks, d, hidden),
        (blocks, hidden, d),
        (1, config.in_channels * p * p, d),
        (1, d, config.out_channels * p * p),
    ]
    per_clip = [(1, 256, d), (1, d, d), (blocks, d, 6 * d), (1, d, 2 * d)]  # those of the timestep and the modulation
    weights, weights_of_clip = (sum(n * a * b for n, a, b in part) for part in (per_token, per_clip))
    biases = sum(n * b for n, _, b in per_token + per_clip)
    classes = config.num_classes + (config.class_dropout_prob > 0) if config.num_classes else 0
    linear = tokens * weights + weights_of_clip
    attention = 2 * tokens * d * (spatial * patches + temporal * frames)  # with the keys, and with the values
    return Cost(weights + weights_of_clip + biases + classes * d, linear + attention, linear)


def main(args: Namespace) -> None:
    """Print what a path holds, or the table."""
    if args.path:
        from latte.commands.describe_path import describe_path  # which loads PyTorch

        print(describe_path(args.path))
        return
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
