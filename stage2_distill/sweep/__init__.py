"""Many students from one store: what is varied, in which order, and a study that draws it by what it has seen."""
