"""`latte bench`: benchmarks, each of which measures its ratios in one run."""

from importlib import import_module

from latte.commands.parser import Parser

BENCHES = {
    "pab": ("latte.eval.bench.pab_cost", "what Pyramid Attention Broadcast saves and costs"),
    "train": ("latte.eval.bench.train_speed", "how fast a Latte trains"),
    "eval": ("latte.eval.bench.eval_speed", "how fast videos are decoded and compared"),
    "memory": ("latte.eval.bench.memory_need", "what Latte-1 needs in memory"),
    "features": ("latte.eval.bench.feature_check", "how the shapes' feature distance grows with damage"),
}


def main(argv: list[str]) -> None:
    """Run one benchmark with the words after its name."""
    parser = Parser(prog="latte bench", description=__doc__)
    help = "; ".join(f"{name}: {what}" for name, (_, what) in BENCHES.items())
    parser.add_argument("benchmark", choices=BENCHES, metavar="BENCHMARK", help=help)
    chosen = parser.parse_args(argv[:1]).benchmark
    import_module(BENCHES[chosen][0]).main(argv[1:])
