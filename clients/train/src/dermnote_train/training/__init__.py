"""The training loop with its parts: losses, augmentation, sampling, distribution and resume."""
