"""The networks: plain PyTorch modules, no files, no schedules."""
