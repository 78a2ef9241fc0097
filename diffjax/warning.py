"""The one kind of warning that this library gives."""


class DiffjaxWarning(UserWarning):
  """Something that a person should know, and the work goes on: a damaged file left out, a text that was cut.

  `warnings.simplefilter("error", diffjax.DiffjaxWarning)` ends the work instead.
  """
