"""The report of `dermnote study`."""
