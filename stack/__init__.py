"""The local stack without Docker or root: what `make up` and `make down` run. Knows the services' commands only."""
