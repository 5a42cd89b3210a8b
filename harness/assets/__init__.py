"""What comes with Longreach: the embedded model, and the script that trains it again."""
