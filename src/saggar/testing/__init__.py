"""What Saggar is tested with, for those who build on it: behaviours to conform to, and attacks."""
