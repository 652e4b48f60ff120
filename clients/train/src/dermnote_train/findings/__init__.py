"""What is seen in a picture, measured from its pixels: the lesion's area, its symmetry, its border, its colours."""
