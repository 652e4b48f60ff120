"""The store: items, images, metadata rows and vectors in one SQLite file. Independent of HTTP, encoders and FAISS."""
