"""Methods that write a change of a weight matrix in few parameters."""
