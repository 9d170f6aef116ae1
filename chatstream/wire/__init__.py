"""How frames look to a client: pure functions of frames, one module for each format."""
