"""Who watches: what is told to logs and to Prometheus, and in which words."""
