"""One frozen model: loaded, read layer by layer, merged."""
