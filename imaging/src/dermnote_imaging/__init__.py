"""Image decoding for the retrieval service and the training client: one file, the same pixels everywhere."""
