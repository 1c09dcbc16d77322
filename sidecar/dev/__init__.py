"""``lockgate dev``: a whole mesh on this machine, to try and to test with. Nothing here is for production."""
