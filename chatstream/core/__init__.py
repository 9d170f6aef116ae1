"""The pure floor: no Django, no I/O, no clock of its own. Anyone may import it."""
