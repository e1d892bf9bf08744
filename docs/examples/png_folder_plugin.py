"""Offers the example reader png_folder (docs/adding_a_dataset.md)."""

import data

data.register("png_folder", "png_folder")
