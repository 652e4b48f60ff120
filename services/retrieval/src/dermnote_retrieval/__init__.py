"""The retrieval service: items (image, note, metadata) in, ranked hits out. HTTP contract in the design, section 7."""

__version__ = "0.1.0"
