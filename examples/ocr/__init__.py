"""Reading texts from images: a detector, a node in Python that crops, a recogniser for each crop."""
