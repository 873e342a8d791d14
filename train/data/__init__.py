"""Training data: videos, the frames of their clips, batches and latents."""
