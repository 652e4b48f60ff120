"""Reading, drawing and splitting lesion data sets."""
