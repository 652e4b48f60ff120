"""Image decoding for the retrieval service and the training client, so that both get the same pixels from a file."""
