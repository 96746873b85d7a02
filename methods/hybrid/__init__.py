"""Methods that act on other methods' forms, or join several."""
