"""The only code that touches the inside of a third-party model."""
