"""Notes per second of our engine and of its peers on the same requests: requests, arms, the peers' choice, report."""
