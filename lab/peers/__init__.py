"""Other engines to compare Dermnote's with, each in its own process, and their client."""
