"""The retrieval service: stores items (image, note, metadata) and answers searches with ranked hits."""

import os

# OpenBLAS reads this when NumPy loads it. By default its threads spin for about 20 milliseconds after each product, on
# cores that encoders need; with 20 they sleep after 2^20 cycles, a third of a millisecond.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
