"""How weights change, as options and arithmetic: schedules, decays, batches, when to stop."""
