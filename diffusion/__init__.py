"""The diffusion process: pure functions of tensors and of any denoiser that can be called."""
