"""How programs are spoken: pure plans, one file per language."""
