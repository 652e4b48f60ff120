"""The training loop and what belongs to it: losses, augmentation, sampling, distribution and resume."""
