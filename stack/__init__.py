"""The local stack without Docker or root, behind `make up` and `make down`. Uses only the services' commands."""
