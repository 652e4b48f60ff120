"""The peers that the benchmarks compare Dermnote with, each in its own process, and a client of llama.cpp's server."""
