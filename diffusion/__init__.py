"""The diffusion process: pure functions of tensors and of a callable denoiser."""
