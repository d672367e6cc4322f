"""COLMAP: the only users of pycolmap."""
