"""Where a slide model looked: window attention, Grad-CAM and MIL attention on the slide, and whether that is true."""
