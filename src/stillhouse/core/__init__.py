"""What more than one stage needs. Nothing here knows a stage by name."""
