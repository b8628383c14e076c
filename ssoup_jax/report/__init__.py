"""What a user sees of a run: console, JSON lines, the summary's table and its plot."""
