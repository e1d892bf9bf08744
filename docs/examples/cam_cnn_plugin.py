"""Offers the example method cam_cnn and its search space (docs/adding_a_method.md)."""

import models
import search_spaces

models.register("cam_cnn", "cam_cnn")
search_spaces.register("cam_cnn", "cam_cnn_space")
