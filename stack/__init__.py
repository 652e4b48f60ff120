"""The local stack without Docker or root, behind `make up` and `make down`. Imports no code of the services."""
