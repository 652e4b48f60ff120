"""The retrieval service: stores items (image, note, metadata) and answers searches with ranked hits."""
