"""The command line, one module per command. argparse is imported here and nowhere else."""
