"""A small language model that the demo brings along, so that it answers without any key.

Three ideas, a module each: ``download`` gets the weights once, ``child`` serves them in a process
of their own, ``supervisor`` starts and ends that process. ``launch`` puts them together: it knows
which commands need the model, and hands its URL and key on through the environment, where
``project.settings`` reads them.

Importing this package costs nothing: no Django, no model.
"""
