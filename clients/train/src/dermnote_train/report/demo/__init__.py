"""The report of `dermnote demo`."""
