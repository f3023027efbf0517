"""Read finished cells: collect them, set them beside published numbers, and make tables and figures of them."""
