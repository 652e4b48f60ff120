"""The key command under its former name: runs `python -m dermnote_http.keys`."""

import runpy
import sys

if __name__ == "__main__":
    try:
        runpy.run_module("dermnote_http.keys", run_name="__main__")
    except ModuleNotFoundError as error:
        sys.exit(f"keys: {error.name} is not installed here; run the command where a service is installed")
