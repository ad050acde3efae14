"""What the house says over HTTP."""
