"""The command line, one module per command. argparse is used here and in latte.cli, and nowhere else."""
