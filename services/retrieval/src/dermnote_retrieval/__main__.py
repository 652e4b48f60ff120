"""Entry point of the service: `dermnote-retrieval` or `python -m dermnote_retrieval`."""

import os

# After each product, OpenBLAS's threads spin for 2^20 cycles, about a third of a millisecond. The default is about 20
# milliseconds, which would keep the cores from the encoders.
OPENBLAS_THREAD_TIMEOUT = "20"


def main() -> None:
    """Configure OpenBLAS, which reads its environment when NumPy is loaded, and serve."""
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", OPENBLAS_THREAD_TIMEOUT)
    from dermnote_retrieval import app  # noqa: PLC0415  loads NumPy

    app.main()


if __name__ == "__main__":
    main()
