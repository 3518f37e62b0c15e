"""What the five stages share; each module's docstring says what it is for."""
