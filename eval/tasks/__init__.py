"""Evaluations on data sets on disk: one kind of task a file, one interface (`base.Task`)."""
