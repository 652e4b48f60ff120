"""Other engines to measure Dermnote's against, each in a process of its own, and the client that asks them."""
