"""Findings measured from pixels: asymmetry, border sharpness and colours of a lesion."""
