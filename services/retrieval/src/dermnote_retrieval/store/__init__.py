"""The truth: items, pictures, facts and vectors in one SQLite file. Knows SQL, nothing of HTTP, encoders or FAISS."""
