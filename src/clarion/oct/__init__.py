"""SD-OCT: phantom, readers, networks and measurements."""
