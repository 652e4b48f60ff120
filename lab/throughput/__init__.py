"""Notes per second of our engine and its peers on the same requests: requests, arms, selection, report."""
