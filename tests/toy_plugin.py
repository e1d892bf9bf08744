"""What a user's own package looks like from outside: MAMMOBENCH_PLUGINS=tests.toy_plugin."""

import models
import search_spaces

models.register("toy_detection", "tests.toy_detection")
search_spaces.register("toy_detection", "tests.toy_detection_space")
