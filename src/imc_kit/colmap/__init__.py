"""COLMAP, through pycolmap."""
