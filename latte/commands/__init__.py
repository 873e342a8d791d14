"""The command line, one file a command. argparse is used here and nowhere else."""
