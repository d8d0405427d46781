"""Training: strands read the text once, then the small parts are fitted."""
