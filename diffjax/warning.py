"""The library's warning category."""


class DiffjaxWarning(UserWarning):
  """Something worth knowing that does not stop the run, such as a skipped damaged file or a truncated text.

  `warnings.simplefilter("error", diffjax.DiffjaxWarning)` turns it into an error.
  """
