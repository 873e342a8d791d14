"""The built-in data set of moving shapes: drawing it, judging it without a network, corrupting it."""
