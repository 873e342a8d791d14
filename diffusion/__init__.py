"""The diffusion process: pure functions of tensors and of any callable denoiser."""
