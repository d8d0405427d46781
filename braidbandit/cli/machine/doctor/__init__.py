"""What may be wrong with an installation or an agent, and how to fix it.

Every check is a function that returns a :class:`Finding`. None loads a model or torch,
and none changes anything.
"""
