"""The study of arXiv 2511.21827: do notes help, by how much, and is it true? Cells, predictions and figures."""
