"""The retrieval service: items (image, note, metadata) in, ranked hits out. HTTP contract in the design, section 7."""

import os

# OpenBLAS reads it when NumPy loads it: after each product its threads look for the next one for some 20 milliseconds,
# on cores that encoders need. Here it is the power of two of cycles after which they sleep, a third of a millisecond.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
