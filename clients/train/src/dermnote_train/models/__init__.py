"""The two-tower model: towers, weights on disk, inference and export."""
