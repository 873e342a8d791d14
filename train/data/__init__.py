"""Training data: videos, windows of frames, batches and latents."""
