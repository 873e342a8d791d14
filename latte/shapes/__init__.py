"""The built-in data set of moving shapes: drawing the clips, judging generated ones, and corrupting them."""
