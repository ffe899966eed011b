"""How it is shipped: files for compose and Kubernetes, written with the user's values."""
