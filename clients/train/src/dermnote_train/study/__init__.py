"""The study of arXiv 2511.21827: whether notes help, by how much, and with what certainty."""
